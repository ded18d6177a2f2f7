"""A GGUF file of the demo model, from a text to tokens, and its drift, beside transformers and plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf_artifacts import convert
from tiny import write_checkpoint
from tokenizers import Tokenizer
from transformers import GPTNeoXForCausalLM

from pythia_quant.bench.quality import compare_logits, run_whole
from pythia_quant.bench.reference import open_reference
from pythia_quant.core.progress import SILENT
from pythia_quant.formats.gguf.reader import read
from pythia_quant.formats.gguf.runtime import LlamaCppRuntime, open_runtime
from pythia_quant.model.source import Source, open_source
from pythia_quant.model.source_name import DEMO
from pythia_quant.model.tokenizer import TOKENIZER
from pythia_quant.runtimes.protocol import generate

PROMPT = 'def main():\n    """Read the command line, and print what it says."""\n    parser = argparse.'
SURE = 0.2
"""Of two logits that differ by more, llama.cpp's rounding of activations to 8 bits does not change the order."""


@pytest.fixture(scope="module")
def demo() -> Source:
    return open_source(DEMO)


@pytest.fixture(scope="module")
def artifact(demo: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    convert(demo.weights, folder, quantizer="nearest", weights="q4_0", head="q8_0")
    return folder


@pytest.fixture(scope="module")
def runtime(artifact: Path) -> LlamaCppRuntime:
    return open_runtime(artifact, threads=1)


@torch.no_grad()
def test_a_text_is_continued_as_transformers_continues_it(
    demo: Source, artifact: Path, runtime: LlamaCppRuntime, tmp_path: Path
) -> None:
    """The tokens of the prompt are llama.cpp's own; transformers has the weights that the file stands for."""
    ids = runtime.model.tokenize(PROMPT, parse_special=False)
    assert ids == Tokenizer.from_file(str(artifact / TOKENIZER)).encode(PROMPT).ids
    stored, shape = read(artifact), demo.architecture
    write_checkpoint(tmp_path / "stored", shape, {name: stored.read(name) for name in shape.tensor_shapes()})
    model = GPTNeoXForCausalLM.from_pretrained(tmp_path / "stored", dtype=torch.float32)
    found, sure = generate(runtime, torch.tensor(ids), 24, ends=()), 0
    for token in found:
        best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        if best.values[0] - best.values[1] > SURE:
            assert token == best.indices[0]
            sure += 1
        ids.append(token)
    assert sure > 12


@torch.no_grad()
def test_the_drift_is_that_of_a_few_lines_of_torch(demo: Source, runtime: LlamaCppRuntime, tmp_path: Path) -> None:
    ids = torch.randint(4096, (2, 64), generator=torch.Generator().manual_seed(0))
    source = GPTNeoXForCausalLM.from_pretrained(demo.folder, dtype=torch.float32)
    wanted, got = (logits[:, :-1].double().log_softmax(-1) for logits in (source(ids).logits, runtime.logits(ids)))
    by_hand = (wanted.exp() * (wanted - got)).sum(-1).mean(1)
    reference = open_reference(demo.weights, {"model.safetensors": "hash"}, ids, SILENT, tmp_path)
    reported = compare_logits(reference, {"as run": run_whole(runtime.logits, ids)})["as run"]
    assert by_hand.min() > 1e-3
    torch.testing.assert_close(torch.tensor(reported.kl, dtype=torch.float64), by_hand, rtol=1e-4, atol=0)
