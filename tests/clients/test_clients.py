"""Programs that others wrote run an artifact's folder as it is, and continue texts with the tokens our runtime adds.

Every client is a process of its own, given the job as JSON, and answers with the same fields as `expected`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from onnx_models import FP32, source
from onnx_models import convert as convert_random
from tiny import TINY, write_texts
from tokenizers import Tokenizer

from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import load_inputs
from pythia_quant.formats.onnx.runtime import OnnxRuntime, open_runtime
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.runtimes.protocol import generate

HERE = Path(__file__).parent
TRANSFORMERS_JS = Path(sys.prefix) / "share" / "transformers.js"
OPTIMUM_PYTHON = "PYTHIA_QUANT_OPTIMUM_PYTHON"

RECIPE = """\
schema: 1
source: {model: "builtin:demo"}
calibration: {text: {file: calibration.txt}, context: 32}
evaluation: {text: {file: evaluation.txt}, windows: 2, context: 64}
variants:
  onnx-int8: {format: onnx}
  onnx-fp32: {format: onnx, weights: fp32, activations: fp32, embeddings: fp32, head: fp32}
"""

SHORT = "import os"
EQUALLY_LONG = [
    "def test_copy(self):\n        self.assertEqual(",
    "def test_read(self):\n        self.assertEqual(",
]
LONG = "".join(
    f"def get_{name}(self, name):\n    return self._{name}[name]\n\n"
    for name in (
        "copy", "move", "read", "write", "open", "close", "sort", "parse", "format", "split", "join", "count", "index",
        "find", "replace", "strip",
    )
)  # fmt: skip
COUNT = 32
CLEAR = 0.05
"""How far the best logit is ahead of the next for every token: else a client that rounds otherwise may differ."""


@dataclass(frozen=True)
class Answer:
    """What a client finds: `batch` are the tokens added to the `EQUALLY_LONG` prompts when given at once."""

    prompts: list[list[int]]
    added: list[list[int]]
    texts: list[str]
    batch: list[list[int]]


@dataclass(frozen=True)
class Case:
    """An artifact and what every client is to answer."""

    folder: Path
    model: str
    expected: Answer


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clients")
    write_texts(folder)
    (folder / "clients.yaml").write_text(RECIPE)
    inputs = load_inputs(load_recipe(folder / "clients.yaml"))
    return {name: convert(inputs, name, folder / "out").folder for name in inputs.recipe.settings.variants}


@pytest.fixture(scope="module", params=["onnx-int8", "onnx-fp32"])
def case(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Case:
    folder = artifacts[request.param]
    tokenizer, runtime = Tokenizer.from_file(str(folder / "tokenizer.json")), open_runtime(folder, threads=2)
    prompts: list[list[int]] = [
        tokenizer.encode(text, add_special_tokens=False).ids for text in (SHORT, LONG, *EQUALLY_LONG)
    ]
    assert len(prompts[1]) > 300
    assert len(prompts[2]) == len(prompts[3])
    added = [continued(runtime, prompt) for prompt in prompts]
    texts = [tokenizer.decode(tokens) for tokens in added]
    model = "model_quantized.onnx" if request.param == "onnx-int8" else "model.onnx"
    return Case(folder, model, Answer(prompts, added, texts, added[2:]))


def continued(runtime: OnnxRuntime, prompt: list[int], clear: float = CLEAR) -> list[int]:
    """Return what our runtime adds, after checking that every choice was a clear one."""
    added = generate(runtime, torch.tensor(prompt), COUNT, ends=())
    best = runtime.logits(torch.tensor([prompt + added]))[0, len(prompt) - 1 : -1].topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > clear, "choose another prompt: rounding decides how this one goes on"
    return added


def ask(command: list[str], case: Case, folder: Path | None = None, script: Path | None = None) -> tuple[Answer, str]:
    """Run a client in `folder`, its script from standard input if given; return its answer and what it complained."""
    job = {"folder": str(case.folder), "model": case.model, "count": COUNT}
    job |= {"prompts": [SHORT, LONG, *EQUALLY_LONG], "batch": EQUALLY_LONG}
    stdin = script.read_text() if script else None
    done = subprocess.run(
        [*command, json.dumps(job)], cwd=folder, input=stdin, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return Answer(**json.loads(done.stdout)), done.stderr


def node() -> list[str]:
    """Return how to run a script that comes from standard input; its imports are looked up in the working folder.

    WebAssembly is compiled quickly instead of well: otherwise node spends a minute on it, also at the end.
    """
    program = shutil.which("node")
    if program is None:
        pytest.skip("transformers.js is not tested: node is not installed")
    if not (TRANSFORMERS_JS / "node_modules" / "@huggingface" / "transformers").is_dir():
        pytest.skip(
            f"transformers.js is not in {TRANSFORMERS_JS}: 'make test-all' puts it there, given npm and a network"
        )
    return [program, "--liftoff-only", "--input-type=module", "-"]


def test_onnxruntime_genai(case: Case) -> None:
    """Its tokenizer reads the folder too, and it says nothing while loading."""
    answer, complaints = ask([sys.executable, str(HERE / "run_genai.py")], case)
    assert asdict(answer) == asdict(case.expected)
    assert complaints == ""


@pytest.mark.parametrize(
    "shape",
    [replace(TINY, context=320, parallel_residual=False, activation="relu"), replace(TINY, context=320, heads=8)],
    ids=["sequential", "heads of 8"],
)
def test_onnxruntime_genai_runs_other_gpt_neox_models(tmp_path: Path, shape: Architecture) -> None:
    """Weights are random: the choice is not as clear as a trained model's, but nothing is rounded."""
    folder = tmp_path / "artifact"
    convert_random(source(tmp_path / "source", shape), folder, **FP32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "source" / name, folder)
    job = {"folder": str(folder), "count": COUNT, "prompts": ["import os"], "batch": ["import os", "import re"]}
    command = [sys.executable, str(HERE / "run_genai.py"), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    expected = continued(open_runtime(folder, threads=1), answer["prompts"][0], clear=1e-3)
    assert answer["added"][0] == answer["batch"][0] == expected


@pytest.mark.slow
def test_transformers_js(case: Case) -> None:
    answer, complaints = ask(node(), case, TRANSFORMERS_JS, HERE / "run_transformers_js.mjs")
    assert asdict(answer) == asdict(case.expected)
    assert complaints == ""


@pytest.mark.slow
def test_transformers_js_as_in_a_browser(case: Case) -> None:
    """The build for browsers, in WebAssembly and over HTTP on loopback, finds every file without an option."""
    answer, _ = ask(node(), case, TRANSFORMERS_JS, HERE / "run_browser_build.mjs")
    assert asdict(answer) == asdict(case.expected)


@pytest.mark.slow
def test_optimum(case: Case) -> None:
    python = os.environ.get(OPTIMUM_PYTHON)
    if python is None:
        pytest.skip(f"optimum is not tested: 'make optimum' does, in an environment of its own ({OPTIMUM_PYTHON})")
    answer, _ = ask([python, str(HERE / "run_optimum.py")], case)
    assert asdict(answer) == asdict(case.expected)
