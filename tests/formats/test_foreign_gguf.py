"""GGUF files of others: what they say is compared with the source, and llama.cpp runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from gguf_models import write_gguf
from tiny import TINY, byte_tokenizer, random_weights, write_checkpoint

from pythia_quant.artifacts.foreign import inspect_foreign
from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.gguf.header import _BLOCKS
from pythia_quant.formats.table import FOREIGN, recognize
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.source import open_weights

KIND = FOREIGN["gguf"]
PROBE = torch.randint(TINY.vocabulary, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "theirs").mkdir()
    return write_gguf(tmp_path / "theirs" / "tiny-F16.gguf", TINY, random_weights(TINY), gguf.GGMLQuantizationType.F16)


def test_a_file_of_another_maker_is_read_and_run(file: Path, tmp_path: Path) -> None:
    assert recognize(file) is recognize(file.parent) is KIND
    finding = KIND.inspect(file, TINY)
    assert (finding.stored, finding.quantized, finding.files) == ("GGUF, F16", False, ["tiny-F16.gguf"])
    source = open_weights(write_checkpoint(tmp_path / "source"))
    weights = KIND.open_weights(file)
    assert weights is not None
    assert all(torch.equal(weights.read(name), source.read(name).float()) for name in TINY.tensor_shapes())
    expected = final_hidden_states(source, PROBE) @ head_weight(source).float().T
    assert (KIND.open_runtime(file, 1).logits(PROBE) - expected).norm() < 2e-3 * expected.norm()
    encode = KIND.encoder(file, TINY.vocabulary)
    assert encode is not None
    assert inspect_foreign(str(file), "gguf", str(tmp_path / "source"), [[5, 6, 7]])["tokenizer"] == "own"
    text = "def f(x):\n\treturn x  # \u00e9\u4e2d"
    assert encode(text) == byte_tokenizer().encode(text).ids


@pytest.mark.parametrize("change", [{"layers": 3}, {"width": 128}, {"rotary_size": 16}, {"norm_epsilon": 1e-6}])
def test_a_file_of_another_shape_is_refused(file: Path, change: dict[str, int]) -> None:
    with pytest.raises(ArtifactError, match="it was not made from this source"):
        KIND.inspect(file, replace(TINY, **change))  # type: ignore[arg-type]


def test_a_folder_with_several_files_and_another_kind_of_model_are_refused(file: Path) -> None:
    content = file.read_bytes()
    other = file.with_name("other.gguf")
    other.write_bytes(content.replace(b"gptneox", b"mistral"))
    with pytest.raises(ArtifactError, match=r"tiny-F16\.gguf"):
        recognize(file.parent)
    with pytest.raises(ArtifactError, match="of the kind 'mistral'"):
        KIND.inspect(other, TINY)


def test_the_sizes_of_blocks_are_those_of_the_package_of_llama_cpp() -> None:
    for code, (name, block, size) in _BLOCKS.items():
        kind = gguf.GGMLQuantizationType(code)
        assert (kind.name.lower(), gguf.GGML_QUANT_SIZES[kind]) == (name, (block, size))
