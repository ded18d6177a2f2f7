"""Words on how an artifact of a variant stores its layers, embeddings and head."""

from __future__ import annotations

from functools import singledispatch

from pythia_quant.core.settings import VariantSettings
from pythia_quant.model.architecture import DENSE
from pythia_quant.recipe.compressed_variant import CompressedSettings
from pythia_quant.recipe.gguf_variant import FLOATS, GgufSettings, GgufType, bits_of
from pythia_quant.recipe.onnx_variant import Choice, OnnxSettings
from pythia_quant.recipe.variants import BnbSettings, GptqSettings

TITLES = {
    "bnb": "bitsandbytes",
    "gptq": "GPTQ",
    "onnx": "ONNX",
    "gguf": "GGUF",
    "compressed-tensors": "compressed-tensors",
}
"""The names of formats for people."""


@singledispatch
def storage(settings: VariantSettings) -> dict[str, str]:
    """Return words on how the ``layers``, the ``embeddings`` and the ``head`` of a variant are stored."""
    raise TypeError(type(settings))


@storage.register
def _(settings: BnbSettings) -> dict[str, str]:
    twice = ", their scales quantized too" if settings.double_quant else ""
    return {
        "layers": f"{settings.quant_type} in blocks of 64{twice}",
        "embeddings": f"{settings.compute_dtype}, not quantized",
        "head": f"{settings.compute_dtype}, not quantized",
    }


@storage.register
def _(settings: GptqSettings) -> dict[str, str]:
    groups = "one group a row" if settings.group_size == "row" else f"groups of {settings.group_size}"
    layers = f"{settings.bits} bits in {groups}, {'symmetric' if settings.symmetric else 'asymmetric'}"
    return {
        "layers": layers,
        "embeddings": "fp16, not quantized",
        "head": layers if settings.head == "quantized" else "fp16, not quantized",
    }


@storage.register
def _(settings: CompressedSettings) -> dict[str, str]:
    groups = "one group a row" if settings.group_size == "row" else f"groups of {settings.group_size}"
    layers = f"{settings.bits} bits in {groups}, symmetric, the very integers of the variant {settings.codes}"
    return {"layers": layers, "embeddings": "fp16, not quantized", "head": "fp16, not quantized"}


@storage.register
def _(settings: OnnxSettings) -> dict[str, str]:
    layers = _choice(settings.linear_choice(0, DENSE))
    if settings.codes:
        layers += f", the very integers of the variant {settings.codes}"
    elif settings.tensors:
        layers += ", single tensors otherwise: see the recipe"
    return {
        "layers": layers,
        "embeddings": _table(settings, settings.embeddings_choice()),
        "head": _table(settings, settings.head_choice()),
    }


def _table(settings: OnnxSettings, choice: Choice) -> str:
    finer = settings.frequent_tokens if choice.weights == "int4" else 0
    return f"{_choice(choice)}{f'; rows of the first {finer:,} and of the last tokens in int8' if finer else ''}"


@storage.register
def _(settings: GgufSettings) -> dict[str, str]:
    layers = _ggml(settings.linear_type(0, DENSE, 256))
    if settings.codes:
        layers += f", the very integers of the variant {settings.codes}"
    elif settings.calibrates:
        layers += ", solved on calibration text"
    if settings.tensors.keys() - {"head", "embeddings"}:
        layers += ", single tensors otherwise: see the recipe"
    embeddings, head = settings.embeddings_type(256), settings.head_type(256)
    return {"layers": layers, "embeddings": _ggml(embeddings), "head": _ggml(head)}


def bits(settings: VariantSettings) -> str:
    """Return a tag with the bits of a layer weight's code, such as ``4-bit``; empty if layers are not quantized."""
    if isinstance(settings, OnnxSettings):
        choice = settings.linear_choice(0, DENSE)
        return "" if choice.weights == "fp32" else f"{choice.bits}-bit"
    if isinstance(settings, GgufSettings):
        kind = settings.linear_type(0, DENSE, 256)
        return "" if kind in FLOATS else f"{bits_of(kind)}-bit"
    return f"{settings.bits}-bit" if isinstance(settings, GptqSettings | CompressedSettings) else "4-bit"


def warnings(settings: VariantSettings) -> list[str]:
    """Return sentences that a person who runs an artifact of these settings should know."""
    sentences = settings.caveats()
    if isinstance(settings, OnnxSettings) and "int8-channel" in (settings.weights, settings.head):
        sentences.append(
            "x86 CPUs without VNNI (Haswell to Skylake-SP, Zen to Zen 3) cut off sums of int8 in channels unless "
            "session.x64quantprecision is set to 1; pythia-quant sets it where it is needed, other programs do not"
        )
    return sentences


def _ggml(kind: GgufType) -> str:
    return f"{kind.upper()}, not quantized" if kind in FLOATS else kind.upper()


def _choice(choice: Choice) -> str:
    if choice.weights == "fp32":
        return "fp32, not quantized"
    if not choice.in_blocks:
        return f"int{choice.bits} with a scale for each output channel; activations uint8 with a scale for each token"
    weights = f"{choice.weights} in blocks of {choice.block_size}"
    activations = {
        "fp32": "",
        "int8": "; activations int8 with a scale for each token and block",
        "int8x2": "; activations int8 in two terms",
    }[choice.activations]
    return weights + activations
