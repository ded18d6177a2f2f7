"""compressed-tensors checkpoints of others, against what the library and transformers read in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from foreign_makers import save_compressed
from safetensors.torch import load_file, save_file
from tiny import TINY, write_checkpoint
from transformers import AutoModelForCausalLM

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.compressed_tensors.foreign_reader import ForeignCompressed
from pythia_quant.formats.table import FOREIGN, recognize
from pythia_quant.model.architecture import HEAD

KIND = FOREIGN["compressed-tensors"]
PROBE = torch.randint(TINY.vocabulary, (2, 20), generator=torch.Generator().manual_seed(0))
LAYER = "gpt_neox.layers.1.mlp.dense_4h_to_h"
GROUPS = {"num_bits": 4, "group_size": 32, "strategy": "group"}
CHANNELS = {"num_bits": 8, "strategy": "channel"}


def by_the_library(folder: Path, name: str, group: int = 0) -> torch.Tensor:
    """Return a weight as the library decompresses it, fp32."""
    fields = json.loads((folder / "config.json").read_text())["quantization_config"]
    scheme = QuantizationConfig.model_validate(fields).config_groups[f"group_{group}"]
    assert isinstance(scheme, QuantizationScheme)
    prefix = f"{name.removesuffix('.weight')}."
    stored = load_file(folder / "model.safetensors")
    state = {key.removeprefix(prefix): one for key, one in stored.items() if key.startswith(f"{prefix}weight")}
    state["weight_scale"] = state["weight_scale"].float()
    weight: torch.Tensor = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    return weight


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        (GROUPS, "4 bits in groups of 32"),
        (GROUPS | {"symmetric": False}, "4 bits in groups of 32 with zero points"),
        (GROUPS | {"num_bits": 3, "symmetric": False, "group_size": 16}, "3 bits in groups of 16 with zero points"),
        (CHANNELS, "8 bits in rows"),
        (CHANNELS | {"symmetric": False}, "8 bits in rows with zero points"),
        (CHANNELS | {"num_bits": 6}, "6 bits in rows"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_the_library_packed_is_read_and_run(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], stored: str
) -> None:
    folder = save_compressed(checkpoint, tmp_path / "theirs", options)
    assert recognize(folder) is KIND
    finding = KIND.inspect(folder, TINY)
    assert (finding.stored, finding.quantized) == (f"compressed-tensors, {stored}", True)
    reader = ForeignCompressed(folder)
    assert len(reader.packed) == 4 * TINY.layers
    for name in reader.packed:
        assert torch.equal(reader.read(name), by_the_library(folder, name)), name
    loadable = folder
    if not options.get("symmetric", True):  # transformers 5.23 takes the packed zero points for damage
        weights = {name: by_the_library(folder, name) for name in reader.packed}
        loadable = write_checkpoint(tmp_path / "plain", weights=load_file(checkpoint / "model.safetensors") | weights)
    runtime, model = KIND.open_runtime(folder, 1), AutoModelForCausalLM.from_pretrained(loadable, dtype=torch.float32)
    with torch.no_grad():
        expected = model(PROBE).logits
    found = runtime.logits(PROBE)
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert ("dequantized" in runtime.description) == (options["num_bits"] > 4 or options.get("group_size") == 16)


def test_layers_in_two_grids_and_a_head(checkpoint: Path, tmp_path: Path) -> None:
    folder = save_compressed(checkpoint, tmp_path / "theirs", GROUPS, CHANNELS | {"symmetric": False}, head=True)
    stored = "compressed-tensors, 4 bits in groups of 32, 8 bits in rows with zero points, head too"
    assert KIND.inspect(folder, TINY).stored == stored
    reader = ForeignCompressed(folder)
    for name, group in ((HEAD, 0), ("gpt_neox.layers.0.attention.dense.weight", 0), (f"{LAYER}.weight", 1)):
        assert torch.equal(reader.read(name), by_the_library(folder, name, group))


def test_inputs_in_the_order_of_their_activations(checkpoint: Path, tmp_path: Path) -> None:
    """The library has removed this order: a weight is that of its permuted columns, put back in their places."""
    folder = save_compressed(checkpoint, tmp_path / "theirs", GROUPS | {"symmetric": False})
    plain, file = by_the_library(folder, f"{LAYER}.weight"), folder / "model.safetensors"
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    groups = torch.empty(256, dtype=torch.int32)
    groups[order] = torch.arange(256, dtype=torch.int32) // 32
    tensors = load_file(file)
    by_columns = by_the_library(folder, f"{LAYER}.weight").unflatten(1, (8, 32))
    scales = tensors[f"{LAYER}.weight_scale"].float()
    steps = (by_columns / scales[..., None]).flatten(1)  # codes less the zero points of their plain groups
    save_file(tensors | {f"{LAYER}.weight_g_idx": torch.full((256,), -1, dtype=torch.int32)}, file)
    assert torch.equal(ForeignCompressed(folder).read(f"{LAYER}.weight"), plain)
    save_file(tensors | {f"{LAYER}.weight_g_idx": groups}, file)
    assert "ordered by activations" in KIND.inspect(folder, TINY).stored
    quantized = ForeignCompressed(folder).quantized(f"{LAYER}.weight")
    zeros = quantized.zeros.float()
    codes = steps + zeros.repeat_interleave(32, 1)
    expected = scales[:, groups] * (codes - zeros[:, groups])
    torch.testing.assert_close(quantized.dequantize(), expected, rtol=0, atol=1e-5)
    save_file(tensors | {f"{LAYER}.weight_g_idx": groups.clamp_max(6)}, file)
    with pytest.raises(ArtifactError, match="does not put 32 inputs into each group"):
        KIND.open_runtime(folder, 1)


def _changed(fields: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return fields | {head: _changed(fields[head], rest, value) if rest else value}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "int-quantized", "format of its quantization is 'int-quantized'; handled: pack-quantized"),
        ("kv_cache_scheme", {"num_bits": 8}, "kv_cache_scheme of its"),
        ("transform_config", {"config_groups": {}}, "transform_config of its"),
        ("sparsity_config", {"format": "sparse-24-bitmask"}, "sparsity_config of its"),
        ("config_groups", {}, "config_groups of its"),
        ("config_groups", {"W4A16": ["Linear"]}, "weights of its"),
        ("config_groups.group_0.input_activations", {"num_bits": 8}, "input_activations of its"),
        ("config_groups.group_0.format", "marlin-24", "format of its"),
        ("config_groups.group_0.weights.strategy", "block", "weights of its"),
        ("config_groups.group_0.weights.num_bits", True, "weights of its"),
        ("config_groups.group_0.weights.num_bits", 8, "which config.json does not say"),
        ("config_groups.group_0.weights.group_size", 16, "which config.json does not say"),
        ("config_groups.group_0.weights.symmetric", False, "which config.json does not say"),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(
    checkpoint: Path, tmp_path: Path, path: str, value: object, message: str
) -> None:
    folder = save_compressed(checkpoint, tmp_path / "theirs", GROUPS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(_changed(config, f"quantization_config.{path}", value)))
    assert recognize(folder) is KIND
    with pytest.raises(ArtifactError, match=message):
        KIND.inspect(folder, TINY)


@pytest.mark.parametrize(
    ("part", "tensor", "message"),
    [
        ("weight_shape", torch.tensor([64, 999]), r"weight_shape is \[64, 999\]"),
        ("weight_scale", torch.full((64, 8), torch.nan, dtype=torch.float16), "not finite"),
        ("weight_packed", torch.zeros(64, 31, dtype=torch.int32), "which config.json does not say"),
        ("weight_zero_point", torch.zeros(8, 8, dtype=torch.int32), "which config.json does not say"),
        ("weight", torch.zeros(64, 256, dtype=torch.float16), "none of GPT-NeoX's"),
        ("input_scale", torch.zeros(1), "none of GPT-NeoX's"),
    ],
)
def test_doctored_tensors_are_refused(
    checkpoint: Path, tmp_path: Path, part: str, tensor: torch.Tensor, message: str
) -> None:
    folder = save_compressed(checkpoint, tmp_path / "theirs", GROUPS)
    file = folder / "model.safetensors"
    save_file(load_file(file) | {f"{LAYER}.{part}": tensor}, file)
    with pytest.raises(ArtifactError, match=message):
        KIND.open_runtime(folder, 1)
