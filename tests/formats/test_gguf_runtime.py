"""llama.cpp computes what our forward pass and transformers do, and no file ends the process."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf_models import write_gguf
from tiny import TINY, byte_tokenizer, random_weights, write_checkpoint
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.formats.gguf import llama_cpp
from pythia_quant.formats.gguf.loaded import Model
from pythia_quant.formats.gguf.runtime import LlamaCppRuntime, check_shape
from pythia_quant.formats.gguf.trial import try_in_child
from pythia_quant.model.architecture import Architecture
from pythia_quant.runtimes.protocol import generate

F32, F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16
IDS = torch.randint(TINY.vocabulary, (2, TINY.context), generator=torch.Generator().manual_seed(0))
CLOSE = 2e-3  # of the largest logit: a GELU from a table in fp16, and keys and values in fp16, give up to 1e-3 here


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TINY, random_weights(TINY))


@pytest.fixture(scope="module")
def runtime(file: Path) -> LlamaCppRuntime:
    return opened(file)


def opened(file: Path, threads: int = 1) -> LlamaCppRuntime:
    return LlamaCppRuntime(Model(file), threads, "F32 weights")


def of_transformers(folder: Path, architecture: Architecture) -> Any:
    write_checkpoint(folder, architecture)
    return GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, F32),
        ({}, F16),
        ({"rotary_size": 32, "parallel_residual": False}, F32),  # the whole head
        ({"rotary_size": 2, "heads": 8, "rotary_base": 500.0}, F16),
        ({"width": 120, "heads": 6, "rotary_size": 6, "mlp_width": 250, "norm_epsilon": 1e-3}, F32),  # no multiples
    ],
)
@torch.no_grad()
def test_logits_are_those_of_transformers(
    tmp_path: Path, changes: dict[str, float], kind: GGMLQuantizationType
) -> None:
    architecture = replace(TINY, **changes)  # type: ignore[arg-type]
    path = write_gguf(tmp_path / "model.gguf", architecture, random_weights(architecture), kind)
    expected = of_transformers(tmp_path / "source", architecture)(IDS).logits
    run = opened(path)
    check_shape(run.model, architecture)
    assert_close(run.logits(IDS), expected)


def test_token_by_token_is_as_in_one_piece(runtime: LlamaCppRuntime) -> None:
    whole = runtime.logits(IDS)[1]
    steps = [runtime.prefill(IDS[1, :4], TINY.context)] + [runtime.step(int(token)) for token in IDS[1, 4:]]
    assert_close(torch.stack(steps), whole[3:])
    assert torch.equal(runtime.prefill(IDS[1, :4], 5), steps[0])  # nothing is left of the sequence before


def test_pieces_of_a_long_window_follow_each_other(tmp_path: Path) -> None:
    architecture = replace(TINY, layers=1, context=700)  # 512 tokens are computed at once
    run = opened(write_gguf(tmp_path / "long.gguf", architecture, random_weights(architecture)))
    ids = torch.randint(TINY.vocabulary, (1, 700), generator=torch.Generator().manual_seed(1))
    whole = run.logits(ids)[0]
    assert_close(run.logits(ids[:, :600])[0], whole[:600])
    assert_close(run.prefill(ids[0], 700), whole[-1])


@torch.no_grad()
def test_generates_what_transformers_does(tmp_path: Path, runtime: LlamaCppRuntime) -> None:
    model = of_transformers(tmp_path / "source", TINY)
    prompt = IDS[0, :8]
    expected = model.generate(prompt[None], max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert generate(runtime, prompt, 20, ends=()) == expected[0, 8:].tolist()


def test_threads_and_a_second_model_change_nothing(file: Path, runtime: LlamaCppRuntime) -> None:
    other = opened(file, threads=2)
    first = runtime.prefill(IDS[0, :8], 16)
    other.prefill(IDS[1, :8], 16)
    following = runtime.step(5)
    assert torch.equal(runtime.prefill(IDS[0, :8], 16), first)
    assert torch.equal(runtime.step(5), following)
    assert_close(other.logits(IDS), runtime.logits(IDS))


def test_memory_is_freed(file: Path) -> None:
    def maps() -> int:
        return sum(Path(entry.path).name == file.name for entry in psutil.Process().memory_maps(grouped=False))

    gc.collect()
    before = maps()
    run = opened(file)
    run.prefill(IDS[0], TINY.context)
    assert maps() > before
    del run
    gc.collect()
    assert maps() == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.prefill(IDS[0], TINY.context + 1), "33 tokens are asked for; the model has 32 positions"),
        (lambda run: run.logits(torch.zeros(1, 33, dtype=torch.int64)), "33 tokens are asked for"),
        (lambda run: run.prefill(IDS[0, :9], 8), "a capacity of 8 tokens"),
        (lambda run: [run.prefill(IDS[0, :8], 8), run.step(1)], "a capacity of 8 tokens"),
        (lambda run: run.logits(torch.tensor([[1, 272]])), "invalid token"),
        (lambda run: run.logits(torch.tensor([[1, -1]])), "llama.cpp fails with -1"),
    ],
)
def test_what_does_not_fit_is_one_error(runtime: LlamaCppRuntime, call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(BenchmarkError, match=message):
        call(runtime)
    assert runtime.logits(IDS).isfinite().all()  # it runs on


def test_a_step_needs_a_prompt(file: Path) -> None:
    with pytest.raises(BenchmarkError, match="can only follow a prompt"):
        opened(file).step(1)


def test_another_model_than_the_source_is_refused(runtime: LlamaCppRuntime) -> None:
    check_shape(runtime.model, TINY)
    for change, message in (
        ({"vocabulary": 273}, "vocabulary is 272, not 273"),
        ({"layers": 3}, "layers is 2, not 3"),
        ({"heads": 4}, "heads is 2, not 4"),
        ({"context": 64}, "context is 32, not 64"),
        ({"rotary_size": 16}, "rotary size is 8, not 16"),
        ({"parallel_residual": False}, "parallel residual is true, not false"),
    ):
        with pytest.raises(ArtifactError, match=message):
            check_shape(runtime.model, replace(TINY, **change))


@pytest.mark.parametrize("text", ["plain", "héllo  wörld\n\t日本 🐧", " <|endoftext|> x", ""])
def test_tokenizes_like_the_tokenizer(runtime: LlamaCppRuntime, text: str) -> None:
    assert runtime.model.tokenize(text, parse_special=True) == byte_tokenizer().encode(text).ids
    plain = runtime.model.tokenize(text, parse_special=False)
    assert 0 not in plain
    assert (runtime.model.begin, runtime.model.end, runtime.model.adds_begin) == (0, 0, False)


@pytest.mark.parametrize(
    "changes",
    [{"width": 66, "rotary_size": 8}, {"rotary_size": 0}, {"rotary_size": 7}, {"rotary_size": 40}, {"context": 2**31}],
)
def test_what_llama_cpp_cannot_compute_is_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    """Odd heads are computed wrongly; a rotary size of 0 never ends; odd and too large ones end the process."""
    architecture = replace(TINY, **changes)  # type: ignore[arg-type]
    path = write_gguf(tmp_path / "odd.gguf", architecture, random_weights(architecture))
    with pytest.raises(ArtifactError, match=r"llama.cpp (computes|rotates) no|context of 2147483648"):
        Model(path)


@pytest.mark.fresh_processes
def test_a_file_is_tried_in_another_process(file: Path) -> None:
    try_in_child(file)


@pytest.mark.fresh_processes
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut", r"llama.cpp refuses it \(.*not within the file bounds"),
        ("not finite", "llama.cpp refuses it .*output.weight.* invalid data"),
        ("negative epsilon", r"its process failed with exit code -6: .*GGML_ASSERT\(eps >= 0"),
        ("no layers", r"its process failed with exit code -6: .*GGML_ASSERT\(hparams.n_layer_all > 0"),
    ],
)
def test_a_doctored_file_ends_no_process_but_its_own(tmp_path: Path, fault: str, message: str) -> None:
    changes = {"negative epsilon": {"norm_epsilon": -1.0}, "no layers": {"layers": 0}}.get(fault, {})
    architecture = replace(TINY, **changes)  # type: ignore[arg-type]
    weights = random_weights(architecture)
    if fault == "not finite":
        weights["embed_out.weight"][-1, -1] = torch.nan
    path = write_gguf(tmp_path / "doctored.gguf", architecture, weights)
    if fault == "cut":
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ArtifactError, match=message) as error:
        try_in_child(path)
    assert error.value.where == str(path)


def test_another_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "version", lambda _: "2027.1.12000")
    with pytest.raises(ArtifactError, match=r"xllamacpp 2027.1.12000 is installed; .* in 2026.10.11549") as error:
        llama_cpp.library.__wrapped__()
    assert error.value.hint == "pip install xllamacpp==2026.10.11549"

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(llama_cpp, "version", missing)
    with pytest.raises(ArtifactError, match="not installed here"):
        llama_cpp.library.__wrapped__()


def test_parameters_laid_out_in_another_way_are_refused() -> None:
    tested = llama_cpp.library().llama_context_default_params()
    moved = llama_cpp.ContextParams.from_buffer_copy(bytes(4) + bytes(tested)[:-4])  # a field more at the beginning
    llama_cpp.check_layout(tested, tested, Path("x.so"))
    with pytest.raises(ArtifactError, match="n_ctx is 0, not 512"):
        llama_cpp.check_layout(moved, tested, Path("x.so"))


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < CLOSE * expected.abs().max()
