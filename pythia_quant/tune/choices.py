"""What may be chosen for each tensor of a variant: the options, their bytes, and a variant's settings with choices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Literal, cast

from pythia_quant.core.errors import RecipeError
from pythia_quant.core.settings import VariantSettings
from pythia_quant.model.architecture import EMBEDDING, HEAD, LINEARS, Architecture, layer_name
from pythia_quant.recipe.gguf_variant import GgufSettings, GgufType, fitting, stored_bits_of
from pythia_quant.recipe.onnx_variant import BlockSize, Choice, OnnxSettings, TensorSettings, Weights

Option = str
"""The name of a way to store a tensor: a type of ggml, such as ``q4_0``; of ONNX, such as ``int4/32`` or ``fp32``."""
Choices = Mapping[str, Option]
"""The option of each tensor, by the key that recipes name it by, such as ``layers.0.attention.dense``."""

_GGUF: tuple[GgufType, ...] = ("q4_0", "q4_k", "q4_1", "q5_0", "q5_k", "q5_1", "q6_k", "q8_0", "f16")
_ONNX = ("int4/128", "int4/64", "int4/32", "int4/16", "int8/128", "int8/64", "int8/32", "fp32")
FLOATS = ("f16", "fp32")
"""The options that round nothing, or next to nothing."""


def is_tunable(settings: VariantSettings) -> bool:
    """Return whether a variant has an option for each tensor: those of GGUF and ONNX that take no other's integers."""
    if isinstance(settings, GgufSettings):
        return settings.codes is None and settings.quantizes_layers()
    in_channels = isinstance(settings, OnnxSettings) and settings.weights.endswith("-channel")
    return isinstance(settings, OnnxSettings) and settings.codes is None and settings.quantizes() and not in_channels


def tensor_keys(shape: Architecture) -> dict[str, str]:
    """Return the names in a checkpoint of all tensors that may be quantized, by the keys that recipes name them by."""
    layers = {
        f"layers.{index}.{name}": f"{layer_name(index)}.{name}.weight"
        for index in range(shape.layers)
        for name in LINEARS
    }
    return {"embeddings": EMBEDDING} | layers | {"head": HEAD}


def options_of(settings: VariantSettings, shape: Architecture, key: str) -> list[Option]:
    """Return the options of a tensor, the smallest first; those that do not suit its width are left out.

    Raises:
        RecipeError: variants of this format have no option for each tensor.
    """
    inputs = shape.tensor_shapes()[tensor_keys(shape)[key]][1]
    if isinstance(settings, GgufSettings):
        fit: list[GgufType] = [
            kind for kind in _GGUF if fitting(kind, inputs) == kind and (kind in FLOATS or inputs % 32 == 0)
        ]
        fit.sort(key=stored_bits_of)
        return [*fit]
    if not isinstance(settings, OnnxSettings):
        raise RecipeError(f"{settings.format} has no setting for each tensor; tune takes gguf and onnx")
    # A recipe takes only blocks that divide all widths, also for a single tensor.
    common = math.gcd(shape.width, shape.mlp_width)
    blocks = [name for name in _ONNX if name in FLOATS or common % int(name.partition("/")[2]) == 0]
    # Blocks of 16 take as many bits as five-bit codes would, and no width needs them where 32 divide it.
    names = [name for name in blocks if not name.endswith("/16") or common % 32]
    return sorted(names, key=lambda name: onnx_choice(name, key).stored_bits)


def onnx_choice(option: Option, key: str, activations: Literal["fp32", "int8", "int8x2"] = "int8") -> Choice:
    """Return how ONNX stores a tensor by an option."""
    weights, _, size = option.partition("/")
    block = int(size) if size else 0
    return Choice(cast(Weights, weights), block, "fp32" if not size or key == "embeddings" else activations)


def bytes_of(settings: VariantSettings, shape: Architecture, key: str, option: Option) -> int:
    """Return the bytes that a tensor takes in the file, scales included."""
    rows, columns = shape.tensor_shapes()[tensor_keys(shape)[key]]
    if isinstance(settings, GgufSettings):
        return int(rows * columns * stored_bits_of(cast(GgufType, option)) / 8)
    return int(rows * columns * onnx_choice(option, key).stored_bits / 8)


def with_choices(settings: VariantSettings, choices: Choices) -> VariantSettings:
    """Return a variant's settings with an option for every tensor, so that nothing else decides how it is stored.

    If all tensors of all layers have one option, it is said once.
    """
    layers = {key: option for key, option in choices.items() if key.startswith("layers.")}
    common = Counter(layers.values()).most_common(1)[0][0]
    exceptions = layers if len(set(layers.values())) > 1 else {}
    data = settings.model_dump(mode="json", exclude_none=True)
    if isinstance(settings, GgufSettings):
        data |= {"weights": common, "embeddings": choices["embeddings"], "head": choices["head"]}
        return GgufSettings.model_validate(data | {"tensors": exceptions})
    if not isinstance(settings, OnnxSettings):
        raise TypeError("only variants of GGUF and ONNX have a setting for each tensor")
    weights, _, size = common.partition("/")
    tables = {key: choices[key].partition("/")[0] for key in ("embeddings", "head")}
    # Where tensors are named, no tensor has the variant's own size, which suits all widths of the model.
    block_size = int(size) if size and not exceptions else settings.block_size
    data |= {"weights": weights, "block_size": block_size, "adapt": False, "frequent_tokens": 0, **tables}
    if {weights, *tables.values(), *(option.partition("/")[0] for option in layers.values())} == {"fp32"}:
        data["activations"] = "fp32"
    named = exceptions | {key: choices[key] for key in ("embeddings", "head")}
    data["tensors"] = {key: _tensor(option).model_dump(exclude_none=True) for key, option in named.items()}
    return OnnxSettings.model_validate(data)


def _tensor(option: Option) -> TensorSettings:
    weights, _, size = option.partition("/")
    return TensorSettings(weights=cast(Weights, weights), block_size=cast(BlockSize, int(size)) if size else None)


def uniform_choices(options: Mapping[str, list[Option]]) -> list[dict[str, Option]]:
    """Return all choices with one option for all layers, one for the embeddings, and one for the head.

    A recipe says these without `tensors`. An option that some layer does not have is no choice.

    Args:
        options: of every tensor, by its key.
    """
    layers = [key for key in options if key.startswith("layers.")]
    everywhere = [option for option in options[layers[0]] if all(option in options[key] for key in layers)]
    return [
        dict.fromkeys(layers, option) | {"embeddings": embeddings, "head": head}
        for option, embeddings, head in product(everywhere, options["embeddings"], options["head"])
    ]


def describe(choices: Choices) -> str:
    """Return choices in a few words, such as ``q4_0 x 14, q5_0 x 10, embeddings q8_0, head q5_1``."""
    layers = Counter(option for key, option in choices.items() if key.startswith("layers."))
    parts = [f"{option} × {count}" if len(layers) > 1 else f"layers {option}" for option, count in layers.most_common()]
    return ", ".join([*parts, f"embeddings {choices['embeddings']}", f"head {choices['head']}"])
