"""The keys of a GGUF file: what the model is, its shape, and its tokenizer."""

from __future__ import annotations

from typing import Any

from pythia_quant.core.errors import QuantizationError
from pythia_quant.formats.gguf.vocabulary import MODEL, SPLIT, Vocabulary
from pythia_quant.model import suite
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.gguf_variant import GgufType

ARCHITECTURE = "gptneox"
_FILE_TYPES: dict[GgufType, int] = {  # llama_ftype in llama.h
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k": 14, "q5_k": 16, "q6_k": 18,
    "bf16": 32,
}  # fmt: skip


def keys(shape: Architecture, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the keys that decide what llama.cpp computes, and their values.

    Raises:
        QuantizationError: llama.cpp cannot compute such a model; the message says what it lacks.
    """
    _check(shape)
    tokens = shape.tokens
    special = {"bos": tokens.begin, "eos": tokens.end, "padding": tokens.pad}
    scaling = shape.rope_scaling
    return {
        "general.architecture": ARCHITECTURE,
        f"{ARCHITECTURE}.context_length": shape.context,
        f"{ARCHITECTURE}.embedding_length": shape.width,
        f"{ARCHITECTURE}.block_count": shape.layers,
        f"{ARCHITECTURE}.feed_forward_length": shape.mlp_width,
        f"{ARCHITECTURE}.rope.dimension_count": shape.rotary_size,
        f"{ARCHITECTURE}.rope.freq_base": float(shape.rotary_base),
        **({f"{ARCHITECTURE}.rope.scaling.type": scaling.kind} if scaling else {}),
        **({f"{ARCHITECTURE}.rope.scaling.factor": float(scaling.factor)} if scaling else {}),
        f"{ARCHITECTURE}.attention.head_count": shape.heads,
        f"{ARCHITECTURE}.attention.layer_norm_epsilon": shape.norm_epsilon,
        f"{ARCHITECTURE}.use_parallel_residual": shape.parallel_residual,
        "tokenizer.ggml.model": MODEL,
        "tokenizer.ggml.pre": SPLIT,
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.kinds,
        "tokenizer.ggml.merges": vocabulary.merges,
        **{f"tokenizer.ggml.{name}_token_id": number for name, number in special.items() if number is not None},
        "tokenizer.ggml.add_bos_token": False,
    }


def descriptions(weights: GgufType, origin: str) -> dict[str, Any]:
    """Return the keys that describe the model for people, and their values.

    Args:
        weights: the type of the layers.
        origin: the repository of the source; empty if it is a folder, whose name is nobody's concern.
    """
    values: dict[str, Any] = {
        "general.type": "model",
        "general.name": origin.rpartition("/")[2] or "GPT-NeoX",
        "general.quantized_by": "pythia-quant",
        "general.file_type": _FILE_TYPES[weights],
        "general.quantization_version": 2,
    }
    if origin:
        address = f"https://huggingface.co/{origin}"
        values |= {
            "general.source.url": address,
            "general.base_model.count": 1,
            "general.base_model.0.name": origin.rpartition("/")[2],
            "general.base_model.0.organization": origin.partition("/")[0],
            "general.base_model.0.repo_url": address,
        }
    if origin and suite.find(origin):
        values["general.license"] = "apache-2.0"
    return values


def _check(shape: Architecture) -> None:
    """Refuse a model that llama.cpp would compute otherwise, or not at all.

    Raises:
        QuantizationError: it would.
    """
    problem = ""
    if not shape.activation.startswith("gelu"):
        problem = f"the activation {shape.activation}; llama.cpp computes every gptneox with GELU"
    elif shape.rope_scaling and shape.rope_scaling.kind != "linear":
        problem = f"positions stretched by {shape.rope_scaling.kind} scaling; llama.cpp has only the linear one"
    elif shape.head_size % 2 or shape.rotary_size % 2 or not 0 < shape.rotary_size <= shape.head_size:
        sizes = f"{shape.head_size} channels, of which {shape.rotary_size} rotate"
        problem = f"heads of {sizes}; llama.cpp computes only even numbers above 0 correctly"
    if problem:
        raise QuantizationError(f"the model has {problem}", hint="the onnx format stores it")
