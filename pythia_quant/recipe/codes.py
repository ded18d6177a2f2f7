"""Whether a variant can store the integers of another one, which GPTQ has solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pythia_quant.core.errors import nearest
from pythia_quant.core.settings import Misfit, VariantSettings
from pythia_quant.recipe.compressed_variant import CompressedSettings
from pythia_quant.recipe.gguf_variant import GgufSettings
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.recipe.variants import GptqSettings


def codes_misfit(variant: VariantSettings, variants: Mapping[str, VariantSettings]) -> Misfit | None:
    """Return the setting that stops a variant from storing the integers that its `codes` names, or None.

    Args:
        variant: the variant.
        variants: all variants of its recipe by their names.
    """
    codes = variant.takes_codes_of()
    if codes is None:
        return None
    solved = variants.get(codes)
    if not isinstance(solved, GptqSettings):
        what = "is no variant" if solved is None else f"has format {solved.format}, and only gptq has codes to take"
        choices = [name for name, other in variants.items() if isinstance(other, GptqSettings)]
        return Misfit(("codes",), f"'{codes}' {what}; {nearest(codes, choices) if choices else 'add a gptq variant'}")
    if isinstance(variant, CompressedSettings):
        return next(_compressed_misfits(variant, codes, solved), None)
    return next(_misfits(variant, codes, solved), None)


def _compressed_misfits(variant: CompressedSettings, codes: str, solved: GptqSettings) -> Iterator[Misfit]:
    if solved.bits not in (4, 8):
        yield Misfit(("codes",), f"'{codes}' has codes of {solved.bits} bits; compressed-tensors has them of 4 or 8")
    if variant.bits != solved.bits:
        yield Misfit(("bits",), f"'{codes}' has codes of {solved.bits} bits; say bits: {solved.bits}")
    if variant.group_size != solved.group_size:
        size = solved.group_size
        yield Misfit(("group_size",), f"'{codes}' has group_size: {size}; say group_size: {size}")
    if not solved.symmetric:
        yield Misfit(
            ("codes",), f"'{codes}' has symmetric: false, which vLLM may not run from this layout; say true there"
        )
    if solved.activation_order == "dynamic":
        yield Misfit(("codes",), f"'{codes}' has activation_order: dynamic, which vLLM refuses; say static there")
    if solved.head == "quantized":
        yield Misfit(("codes",), f"'{codes}' has head: quantized; say fp16 there")


def _misfits(variant: VariantSettings, codes: str, solved: GptqSettings) -> Iterator[Misfit]:
    name, types = ("GGUF", {4: "q4_0", 8: "q8_0"}) if isinstance(variant, GgufSettings) else ("ONNX", _ONNX_TYPES)
    weights = types.get(solved.bits)
    if weights is None:
        yield Misfit(("codes",), f"'{codes}' has codes of {solved.bits} bits; {name} has them of 4 or 8")
    elif isinstance(variant, GgufSettings | OnnxSettings) and variant.weights != weights:
        yield Misfit(("weights",), f"'{codes}' has codes of {solved.bits} bits; say weights: {weights}")
    if isinstance(variant, OnnxSettings):
        yield from _group_misfits(variant, codes, solved)
    elif not solved.symmetric:
        why = "GGUF's types have no zero points, only minimums in fp16"
        yield Misfit(("codes",), f"'{codes}' has symmetric: false: {why}; say true there, or let q4_1 be solved")
    if solved.activation_order == "dynamic":
        why = f"{name}'s blocks are neighbouring inputs; dynamic groups are not"
        yield Misfit(("codes",), f"'{codes}' has activation_order: dynamic: {why}; say static there")
    for pattern in getattr(variant, "tensors", {}):
        if pattern not in ("head", "embeddings"):
            yield Misfit(("tensors", pattern), f"layers are those of '{codes}'; only head and embeddings may differ")


_ONNX_TYPES = {4: "int4", 8: "int8"}


def _group_misfits(variant: OnnxSettings, codes: str, solved: GptqSettings) -> Iterator[Misfit]:
    if solved.group_size == "row":
        yield Misfit(("codes",), f"'{codes}' has group_size: row; ONNX has blocks of 16 to 128 inputs")
    elif variant.block_size != solved.group_size:
        size = solved.group_size
        yield Misfit(("block_size",), f"'{codes}' has groups of {size}; say block_size: {size}")
