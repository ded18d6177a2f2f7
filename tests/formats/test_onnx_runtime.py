"""Generating with ONNX Runtime gives what measuring gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx_models import FP32, SHAPE, convert, source, tokens

from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.formats.onnx.data_file import StoredModel, find_model
from pythia_quant.formats.onnx.reader import read
from pythia_quant.formats.onnx.runtime import OnnxRuntime, open_runtime
from pythia_quant.model.architecture import EMBEDDING
from pythia_quant.runtimes.protocol import generate

IDS = tokens(2, 300)


def make(folder: Path, **settings: Any) -> OnnxRuntime:
    convert(source(folder / "source"), folder / "artifact", **settings)
    return open_runtime(folder / "artifact", threads=2)


@pytest.fixture(scope="module", params=["int8", "fp32"])
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntime:
    """Int8 weights, with activations in int8 and in fp32."""
    return make(tmp_path_factory.mktemp("model"), activations=request.param)


@pytest.mark.parametrize("prompt", [1, 127, 128, 129, 290])
def test_prefill_and_steps_give_the_logits_of_the_whole_sequence(runtime: OnnxRuntime, prompt: int) -> None:
    ids = IDS[0]
    expected = runtime.logits(ids[None])[0]
    steps = [runtime.prefill(ids[:prompt], capacity=prompt + 10)]
    steps += [runtime.step(int(ids[index])) for index in range(prompt, prompt + 10)]
    differences = (torch.stack(steps) - expected[prompt - 1 : prompt + 10]).abs()
    # Sums in another order can carry an activation over to the next integer, which moves a few logits by a little more.
    rounds = "x int8" in runtime.description
    assert (differences <= 1e-4).float().mean() >= (0.99 if rounds else 1)
    assert differences.max() < 2e-3


def test_rows_do_not_see_each_other(runtime: OnnxRuntime) -> None:
    both = runtime.logits(IDS)
    assert both.shape == (2, 300, SHAPE.vocabulary)
    assert torch.equal(both[1], runtime.logits(IDS[1:])[0])


def test_measuring_in_between_leaves_a_generation_alone(runtime: OnnxRuntime) -> None:
    runtime.prefill(IDS[0, :20], capacity=30)
    expected = runtime.step(3)
    runtime.prefill(IDS[0, :20], capacity=30)
    runtime.logits(IDS[1:, :50])
    assert torch.equal(runtime.step(3), expected)


def test_greedy_generation_takes_the_most_likely_token(runtime: OnnxRuntime) -> None:
    new = generate(runtime, IDS[0, :5], count=4, ends=())
    whole = torch.cat((IDS[0, :5], torch.tensor(new)))
    assert runtime.logits(whole[None])[0, 4:-1].argmax(-1).tolist() == new


def test_more_tokens_than_positions_are_refused(runtime: OnnxRuntime) -> None:
    with pytest.raises(BenchmarkError, match="321 tokens are asked for; the model has 320 positions"):
        runtime.prefill(IDS[0, :1], capacity=321)


def test_more_tokens_than_the_capacity_are_refused(runtime: OnnxRuntime) -> None:
    with pytest.raises(BenchmarkError, match="a capacity of 4 tokens"):
        runtime.prefill(IDS[0, :5], capacity=4)
    runtime.prefill(IDS[0, :5], capacity=6)
    runtime.step(3)
    with pytest.raises(BenchmarkError, match="token 7 does not fit: a capacity of 6"):
        runtime.step(3)


@pytest.mark.parametrize("settings", [{}, FP32], ids=["int8", "fp32"])
def test_values_that_are_not_finite_are_refused_when_loaded_and_when_read(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    make(tmp_path, **settings)
    folder = tmp_path / "artifact"
    (data,) = folder.rglob("*_data")
    stored = StoredModel(find_model(folder))
    name = "embeddings.weight" if settings else "embeddings.scales"
    place = stored.array(name)
    assert isinstance(place, np.memmap)
    content = bytearray(data.read_bytes())
    content[place.offset : place.offset + 4] = np.float32(np.nan).tobytes()
    data.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} holds values that are not finite"):
        open_runtime(folder, threads=1)
    with pytest.raises(ArtifactError, match="not finite"):
        read(folder).read(EMBEDDING)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"activations": "int8"},
            "layers int8 blocks of 64 x int8, head int8 blocks of 64 x int8x2, embeddings int8 blocks of 64",
        ),
        (
            {"block_size": 32},
            "layers int8 blocks of 32 x fp32, head int8 blocks of 32 x fp32, embeddings int8 blocks of 32",
        ),
        (
            {
                "activations": "int8",
                "weights": "int8-channel",
                "head": "fp32",
                "tensors": {"mlp.dense_4h_to_h": {"weights": "fp32"}},
            },
            "layers int8-channel x int8, head fp32, embeddings int8 blocks of 64, with exceptions",
        ),
        (
            {"embeddings": "int4", "frequent_tokens": 20},
            "layers int8 blocks of 64 x fp32, head int8 blocks of 64 x fp32, embeddings int4 blocks of 64, "
            "of int4 the first 20 tokens and the last in int8",
        ),
        (FP32, "fp32"),
    ],
)
def test_description_says_what_runs(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    assert make(tmp_path, **settings).description == f"onnxruntime {onnxruntime.__version__} CPU, {words}"
