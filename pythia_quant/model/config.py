"""Read a GPT-NeoX ``config.json``. A field that changes what the model computes is understood, or refused by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

from pythia_quant.core.errors import SourceError
from pythia_quant.core.foreign_files import read_object
from pythia_quant.core.text import short
from pythia_quant.model.architecture import Activation, Architecture, RopeScaling, SpecialTokens

TRANSFORMERS_JS = "transformers.js_config"
"""The field of config.json that only transformers.js reads: it names a file to load."""

# No model of the family exceeds these limits, and within them no table that we build takes long or much memory.
_MOST = {
    "num_hidden_layers": 1_000, "hidden_size": 100_000, "num_attention_heads": 10_000, "intermediate_size": 1_000_000,
    "vocab_size": 10_000_000, "max_position_embeddings": 10_000_000,
}  # fmt: skip

# Fields that have one value in GPT-NeoX: with any other value, the model would compute something else.
_FIXED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "sliding_window": (None,),
}

_READ = {
    "architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "vocab_size", "max_position_embeddings", "layer_norm_eps", "rotary_pct", "rotary_emb_base", "rope_parameters",
    "rope_theta", "partial_rotary_factor", "bos_token_id", "eos_token_id", "pad_token_id", "hidden_act",
    "use_parallel_residual", "attention_bias", "tie_word_embeddings", "rope_scaling", "quantization_config",
    "head_dim", "num_key_value_heads", TRANSFORMERS_JS,
}  # fmt: skip

# Fields without effect on inference from full-precision weights.
_IGNORED = {
    "_name_or_path", "attention_dropout", "attention_probs_dropout_prob", "classifier_dropout", "dtype",
    "hidden_dropout", "hidden_dropout_prob", "id2label", "initializer_range", "label2id", "output_attentions",
    "output_hidden_states", "return_dict", "torch_dtype", "transformers_version", "use_cache",
    "chunk_size_feed_forward", "gradient_checkpointing", "problem_type", "sep_token_id", "cls_token_id",
    "decoder_start_token_id", "is_decoder",
}  # fmt: skip


def read_config(path: Path, *, quantized: bool = False) -> Architecture:
    """Read a ``config.json``; `quantized` says that it is an artifact's, whose quantization_config is ignored here.

    Raises:
        SourceError: not JSON, not GPT-NeoX, or a field whose value we do not handle.
    """
    fields = read_object(path, SourceError)
    if quantized:
        fields.pop("quantization_config", None)
    return parse_config(fields, where=str(path))


def unknown_fields(fields: dict[str, Any]) -> list[str]:
    """Return the names of the fields that this module does not know, sorted, so that the caller can report them."""
    return sorted(fields.keys() - _READ - _IGNORED - _FIXED.keys())


def parse_config(fields: dict[str, Any], where: str = "config.json") -> Architecture:
    """Turn the fields of a ``config.json`` into an architecture; see :func:`read_config`."""
    if fields.get("model_type") != "gpt_neox":
        raise SourceError(
            f"model_type is {short(fields.get('model_type'))}; only gpt_neox (Pythia) is handled",
            where=where,
            hint="give a GPT-NeoX checkpoint, such as EleutherAI/pythia-160m",
        )
    if fields.get("architectures") not in (None, [], ["GPTNeoXForCausalLM"]):
        raise SourceError(
            f"architectures is {short(fields['architectures'])}; only GPTNeoXForCausalLM is handled",
            where=where,
            hint="give a checkpoint with a language-model head",
        )
    if fields.get("quantization_config") is not None:
        raise SourceError(
            "has a quantization_config: the checkpoint is quantized already",
            where=where,
            hint="give the checkpoint that it was made from, in fp16, bf16 or fp32",
        )
    for name, allowed in _FIXED.items():
        if name in fields and fields[name] not in allowed:
            raise _refused(name, fields[name], repr(allowed[0]), where)
    width, heads = _integer(fields, "hidden_size", where), _integer(fields, "num_attention_heads", where)
    if width % heads:
        raise SourceError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}", where=where)
    for name, size in (("head_dim", width // heads), ("num_key_value_heads", heads)):
        if fields.get(name) not in (None, size):
            raise _refused(name, fields[name], str(size), where)
    activation = fields.get("hidden_act", "gelu")
    if activation not in get_args(Activation):
        raise _refused("hidden_act", activation, ", ".join(get_args(Activation)), where)
    base, share, scaling = _rotary(fields, where)
    rotary_size = int(width // heads * share)
    if rotary_size % 2 or not 0 < rotary_size <= width // heads:
        raise SourceError(f"rotary embedding over {rotary_size} of {width // heads} head dimensions", where=where)
    vocabulary = _integer(fields, "vocab_size", where)
    return Architecture(
        layers=_integer(fields, "num_hidden_layers", where),
        width=width,
        heads=heads,
        mlp_width=_integer(fields, "intermediate_size", where),
        vocabulary=vocabulary,
        context=_integer(fields, "max_position_embeddings", where),
        rotary_size=rotary_size,
        rotary_base=base,
        norm_epsilon=_number(fields.get("layer_norm_eps", 1e-5), "layer_norm_eps", where),
        parallel_residual=_flag(fields, "use_parallel_residual", default=True, where=where),
        activation=activation,
        rope_scaling=scaling,
        tied=_flag(fields, "tie_word_embeddings", default=False, where=where),
        attention_biases=_flag(fields, "attention_bias", default=True, where=where),
        tokens=special_tokens(fields, vocabulary, where),
    )


def _refused(name: str, value: Any, handled: str, where: str) -> SourceError:
    return SourceError(f"{name} is {short(value)}; handled: {handled}", where=where)


def _integer(fields: dict[str, Any], name: str, where: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise SourceError(f"{name} is {short(value)}; a positive integer is needed", where=where)
    if value > _MOST[name]:
        raise SourceError(f"{name} is {short(value)}; at most {_MOST[name]:,} is handled", where=where)
    return value


def _number(value: Any, name: str, where: str) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 < value < 1e30 or not math.isfinite(value):
        raise SourceError(f"{name} is {short(value)}; a positive number is needed", where=where)
    return float(value)


def _flag(fields: dict[str, Any], name: str, *, default: bool, where: str) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise _refused(name, value, "true or false", where)
    return value


GPT_NEOX_TOKENS = SpecialTokens(begin=0, ends=(2,), pad=None)
"""The default special tokens of transformers' GPTNeoXConfig, for a config.json that names none."""


def special_tokens(
    fields: dict[str, Any], vocabulary: int, where: str, default: SpecialTokens = GPT_NEOX_TOKENS
) -> SpecialTokens:
    """Return the ids of special tokens in a ``config.json`` or ``generation_config.json``.

    A padding token may lie beyond the vocabulary: a caller that uses it must check it.

    Args:
        fields: the content of the file.
        vocabulary: the number of tokens that the model has.
        where: the file's name, for errors.
        default: the tokens of the kinds that the file does not name.

    Raises:
        SourceError: an id is no token of the model.
    """

    def ids(name: str, default: tuple[int, ...], limit: float = vocabulary) -> tuple[int, ...]:
        value = fields.get(name, list(default))
        tokens = value if isinstance(value, list) else [] if value is None else [value]
        for token in tokens:
            if not isinstance(token, int) or isinstance(token, bool) or not -1 <= token < limit:
                raise SourceError(
                    f"{name} is {short(value)}; the vocabulary has tokens 0 to {vocabulary - 1:,}", where=where
                )
        return tuple(dict.fromkeys(token for token in tokens if token >= 0))  # some tools write -1 for none

    def single(name: str, default: int | None, limit: float = vocabulary) -> int | None:
        tokens = ids(name, () if default is None else (default,), limit)
        if isinstance(fields.get(name), list):
            raise SourceError(f"{name} is {short(fields[name])}; a single token is needed", where=where)
        return next(iter(tokens), None)

    return SpecialTokens(
        begin=single("bos_token_id", default.begin),
        ends=ids("eos_token_id", default.ends),
        pad=single("pad_token_id", default.pad, math.inf),
    )


def _rotary(fields: dict[str, Any], where: str) -> tuple[float, float, RopeScaling | None]:
    """Return base, share of the head that rotates, and scaling, from the names before or after transformers 5."""
    old, new = (_rope_object(fields, name, where) for name in ("rope_scaling", "rope_parameters"))
    scaling = _scaling(new, "rope_parameters", where)
    if old:  # transformers 5 takes it in place of rope_parameters, which may then be the default
        before, scaling = scaling, _scaling(old, "rope_scaling", where)
        if before not in (None, scaling):
            raise SourceError("rope_scaling and rope_parameters say different things", where=where)
    base = _one_number((old, new, fields), ("rope_theta", "rotary_emb_base"), 10000.0, where)
    share = _one_number((old, new, fields), ("partial_rotary_factor", "rotary_pct"), 0.25, where)
    return base, share, scaling


def _one_number(places: tuple[dict[str, Any], ...], names: tuple[str, str], default: float, where: str) -> float:
    """Return the number that several objects of a config give by two names, the whole config being the last of them.

    Raises a SourceError if they give different numbers.

    In the whole config, GPT-NeoX in transformers reads only the second name; the first must have the same value.
    """
    new, old = names
    numbers = {_number(place[name], name, where) for place in places for name in names if name in place}
    if old not in places[-1] and not any(new in place for place in places[:-1]):
        numbers.add(default)
    if len(numbers) > 1:
        listed = " and ".join(f"{number:g}" for number in sorted(numbers))
        raise SourceError(f"{new} and {old} say {listed}; {old} is what counts", where=where)
    return numbers.pop()


def _rope_object(fields: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise _refused(name, value, "an object with rope_type", where)
    return value


def _scaling(value: dict[str, Any], name: str, where: str) -> RopeScaling | None:
    kind = value.get("rope_type", value.get("type", "default"))
    if kind not in ("default", "linear", "dynamic"):
        raise _refused(name, value, "none, linear or dynamic", where)
    if unknown := set(value) - {"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"}:
        raise SourceError(f"{name} has {short(sorted(unknown)[0])}, which is not handled", where=where)
    return None if kind == "default" else RopeScaling(kind, _number(value.get("factor"), f"{name}.factor", where))
