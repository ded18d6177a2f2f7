"""Artifacts of the demo model in many settings, and what a program is to answer of them.

GPTQ in every layout, integers of it as compressed-tensors, and one of bitsandbytes.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.formats.bnb.runtime import open_bnb
from pythia_quant.formats.compressed_tensors.runtime import open_runtime as open_compressed
from pythia_quant.formats.gptq.reader import read
from pythia_quant.formats.gptq.runtime import build_model
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.runtimes.protocol import generate
from pythia_quant.runtimes.transformers import HfRuntime

VARIANTS = {
    "gptq-int4": "",
    "groups-32": "group_size: 32",
    "groups-64": "group_size: 64",
    "row": "group_size: row",
    "dynamic-row": "group_size: row, activation_order: dynamic",
    "asymmetric": "symmetric: false",
    "dynamic": "activation_order: dynamic",
    "bits-2": "bits: 2, group_size: 32",
    "bits-3": "bits: 3",
    "bits-3-dynamic": "bits: 3, activation_order: dynamic",
    "bits-8": "bits: 8",
    "head": "head: quantized",
}
"""The settings of each artifact. Only the layout matters here, so all are solved quickly instead of well."""

RECIPE = """\
schema: 1
source: {model: "builtin:demo"}
calibration: {text: {builtin: training}, windows: 4, context: 256}
evaluation: {text: {builtin: held-out}, windows: 2, context: 256}
variants:
""" + "".join(
    f"  {name}: {{{', '.join(filter(None, ('format: gptq, sweeps: 0, correction: none', settings)))}}}\n"
    for name, settings in VARIANTS.items()
)
RECIPE += """\
  bnb-nf4: {format: bnb}
  ct-int4: {format: compressed-tensors, codes: gptq-int4}
  ct-groups-32: {format: compressed-tensors, codes: groups-32, group_size: 32}
  ct-row: {format: compressed-tensors, codes: row, group_size: row}
  ct-int8: {format: compressed-tensors, codes: bits-8, bits: 8}
"""

PROMPTS = [
    "import os",
    "class Reader:\n    def __init__(self, name):\n        self.name = name\n\n    def ",
    "def test_copy(self):\n        self.assertEqual(",
    "try:\n    import json\nexcept ImportError",
]
COUNT = 16

CLEAR = 0.3
"""How far the best logit is ahead of the next one for a choice that no program makes otherwise: in bfloat16, logits of
this model differ by up to 0.1."""

NEAR = 1.5
"""The largest KL divergence of a program that reads an artifact from our runtime's, mnat; of bfloat16, 0.4 to 0.6 were
measured. Scales of one layer that are off by 5 % give 5 or more, a random head more than 5,000."""


@dataclass(frozen=True)
class Answer:
    """What a program says of the prompts and the windows.

    Attributes:
        prompts: the tokens of each prompt.
        added: the tokens that it adds to each prompt.
        log_probabilities: those of each token but the first in each window, fp32 [windows, tokens - 1, vocabulary].
        kernel: the program's own name of what computes its linear layers.
    """

    prompts: list[list[int]]
    added: list[list[int]]
    log_probabilities: Tensor
    kernel: str


@dataclass(frozen=True)
class Refusal:
    """What a program says of an artifact that it does not take: all that it printed."""

    said: str


class Cases:
    """The artifacts in a folder, which are converted when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "recipe.yaml").write_text(RECIPE)
        self.artifact = cache(self._convert)
        self.ours = cache(self._ours)

    def _convert(self, name: str) -> Path:
        return convert(self._inputs, name, self._folder / "out").folder

    @cached_property
    def _inputs(self) -> Inputs:
        return load_inputs(load_recipe(self._folder / "recipe.yaml"))

    @cached_property
    def windows(self) -> Tensor:
        return torch.from_numpy(np.asarray(self._inputs.evaluation, dtype=np.int64))

    def ask(self, python: str, script: Path, name: str, **settings: str) -> Answer | Refusal:
        """Let another Python's program continue the prompts and predict the windows."""
        out = self._folder / "answers" / f"{script.stem}-{name}"
        out.mkdir(parents=True)
        job = {"folder": str(self.artifact(name)), "prompts": PROMPTS, "count": COUNT, "out": str(out)}
        job["windows"] = self.windows.tolist()
        done = subprocess.run(
            [python, str(script), json.dumps(job)],
            env=settings,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            return Refusal(done.stdout + done.stderr)
        said = json.loads((out / "answer.json").read_text())
        return Answer(**said, log_probabilities=torch.from_numpy(np.load(out / "log_probabilities.npy")))

    def _ours(self, name: str) -> HfRuntime:
        folder = self.artifact(name)
        if name == "bnb-nf4":
            return open_bnb(folder, threads=2)
        if name.startswith("ct-"):
            return open_compressed(folder, threads=2)
        return HfRuntime(build_model(read(folder)), "int4")

    def check(self, name: str, answer: Answer) -> str:
        """Check an answer against our own runtime, and return the KL divergence from the source of both, in words."""
        tokenizer = Tokenizer.from_file(str(self.artifact(name) / "tokenizer.json"))
        assert answer.prompts == [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in PROMPTS]
        runtime, compared = self.ours(name), 0
        for prompt, added in zip(answer.prompts, answer.added, strict=True):
            clear = clearly_added(runtime, prompt)
            assert added[: len(clear)] == clear
            compared += len(clear)
        assert compared >= 5, "choose other prompts: rounding decides how these go on"
        ours = runtime.logits(self.windows)[:, :-1].log_softmax(-1)
        assert answer.log_probabilities.shape == ours.shape
        assert torch.isfinite(answer.log_probabilities).all()
        assert divergence(ours, answer.log_probabilities) < NEAR
        model = AutoModelForCausalLM.from_pretrained(self._inputs.source.folder, dtype=torch.float32)
        with torch.no_grad():
            reference = model(self.windows).logits[:, :-1].log_softmax(-1)
        here, there = divergence(reference, ours), divergence(reference, answer.log_probabilities)
        assert abs(there - here) < NEAR + 0.05 * here
        return f"{name}: KL {there:.2f} mnat in {answer.kernel}, {here:.2f} in our runtime, {compared} tokens compared"


def clearly_added(runtime: HfRuntime, prompt: list[int]) -> list[int]:
    """Return what our runtime adds to a prompt, up to the first choice that is not a clear one."""
    added = generate(runtime, torch.tensor(prompt), COUNT, ends=())
    best = runtime.logits(torch.tensor([prompt + added]))[0, len(prompt) - 1 : -1].topk(2).values
    unclear = (best[:, 0] - best[:, 1] < CLEAR).tolist()
    return added[: unclear.index(True)] if True in unclear else added


def divergence(first: Tensor, second: Tensor) -> float:
    """Return the mean KL divergence of the second log-probabilities from the first, mnat."""
    return float(1000 * (first.exp() * (first - second)).sum(-1).mean())


def environment(**more: str) -> dict[str, str]:
    """Return the environment variables of another program's process: no network, two threads."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"} | more
