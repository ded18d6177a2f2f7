"""Translate the tensor names that other programs write into the names of GPT-NeoX on the hub."""

from __future__ import annotations

from pythia_quant.architecture import HEAD

# What torch.compile, data parallel wrappers, activation checkpointing, PEFT and Lightning put into a name.
_WRAPPERS = {
    "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "base_model",
    "model",
}  # fmt: skip

# Old checkpoints carry them: a causal mask and rotary tables, all computed again at run time.
_BUFFERS = (
    ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq", ".rotary_emb.original_inv_freq",
    ".rotary_emb.cos_cached", ".rotary_emb.sin_cached",
)  # fmt: skip

_BODY = "gpt_neox."
_WITHOUT_HEAD = ("embed_in.", "layers.", "final_layer_norm.", "rotary_emb.")
_ADAPTER = ("lora_", "base_layer", "modules_to_save", "ia3_")
_QUANTIZED = (
    "qweight", "qzeros", "scales", "g_idx", "SCB", "absmax", "quant_map", "quant_state", "weight_scale",
    "weight_packed", "weight_scale_inv",
)  # fmt: skip


def plain_name(name: str) -> str:
    """Return a tensor's name without the wrappers' parts; ``lm_head`` is the head by transformers' own name.

    What a program calls the whole model, such as ``student.`` or ``llm.``, is left out before ``gpt_neox.`` and a head.
    """
    name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    _, body, rest = name.rpartition(_BODY)
    if body or name.startswith(_WITHOUT_HEAD):
        return f"{_BODY}{rest}"
    return HEAD if name.endswith((".lm_head.weight", f".{HEAD}")) or name == "lm_head.weight" else name


def known_to_transformers(name: str) -> bool:
    """Say whether transformers finds a tensor of this name by itself."""
    return plain_name(name) in (name, f"{_BODY}{name}") or name == "lm_head.weight"


def is_buffer(name: str) -> bool:
    """Say whether a plain name is that of a table that is not a weight."""
    return f".{name}".endswith(_BUFFERS)


def foreign(name: str) -> tuple[str, str] | None:
    """Return what is wrong and what to do when the name shows an adapter or a quantized checkpoint; else None."""
    parts = name.split(".")
    if any(part.startswith(_ADAPTER) for part in parts):
        return "holds an adapter that is not merged into the model", MERGE
    if parts[-1] in _QUANTIZED or "quant_state" in parts:
        return "the checkpoint is quantized already", UNQUANTIZED
    return None


MERGE = (
    "merge it first: with peft, AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload()"
    ".save_pretrained(folder), and copy the tokenizer beside it"
)
UNQUANTIZED = "give the checkpoint that it was made from, in fp16, bf16 or fp32"
