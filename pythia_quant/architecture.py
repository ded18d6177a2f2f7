"""What a GPT-NeoX ``config.json`` says, read strictly: what we do not handle is refused by name, never guessed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pythia_quant.errors import SourceError

EMBEDDING, HEAD = "gpt_neox.embed_in.weight", "embed_out.weight"
FINAL_NORM = "gpt_neox.final_layer_norm"
TRANSFORMERS_JS = "transformers.js_config"
"""The field of config.json that only transformers.js reads: which file to load, nothing about what it computes."""

# Fields of config.json that are fixed: any other value changes what the model computes.
_REQUIRED: dict[str, Any] = {
    "hidden_act": "gelu",
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "rope_scaling": None,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "quantization_config": None,
}

_READ = {
    "architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "vocab_size", "max_position_embeddings", "layer_norm_eps", "rotary_pct", "rotary_emb_base", "rope_parameters",
    "rope_theta", "partial_rotary_factor", "bos_token_id", "eos_token_id",
}  # fmt: skip

# Fields without effect on inference from full-precision weights.
_IGNORED = {
    "_name_or_path", "attention_dropout", "attention_probs_dropout_prob", "classifier_dropout", "dtype",
    "hidden_dropout", "hidden_dropout_prob", "id2label", "initializer_range", "label2id", "output_attentions",
    "output_hidden_states", "pad_token_id", "return_dict", "torch_dtype", "transformers_version", "use_cache",
    "chunk_size_feed_forward", "gradient_checkpointing", "problem_type", "sep_token_id", "cls_token_id",
    "decoder_start_token_id", "is_decoder", TRANSFORMERS_JS,
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """The shape of a GPT-NeoX model with parallel residual and exact GELU: all that decides what it computes."""

    layers: int
    width: int
    heads: int
    mlp_width: int
    vocabulary: int
    context: int
    rotary_size: int
    rotary_base: float
    norm_epsilon: float
    end_of_text: int | None = 0

    @property
    def head_size(self) -> int:
        """Dimensions of one attention head."""
        return self.width // self.heads

    @property
    def parameters(self) -> int:
        """Parameters of the whole model, both embedding matrices and all biases included."""
        return 2 * self.vocabulary * self.width + self.non_embedding_parameters

    @property
    def non_embedding_parameters(self) -> int:
        """Parameters without the two embedding matrices."""
        d, m = self.width, self.mlp_width
        attention = 4 * d * d + 4 * d
        mlp = 2 * d * m + m + d
        return self.layers * (attention + mlp + 4 * d) + 2 * d

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every tensor a checkpoint of this architecture has, in reading order."""
        d, m, v = self.width, self.mlp_width, self.vocabulary
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (v, d)}
        for i in range(self.layers):
            layer = layer_name(i)
            shapes |= {
                f"{layer}.input_layernorm.weight": (d,),
                f"{layer}.input_layernorm.bias": (d,),
                f"{layer}.post_attention_layernorm.weight": (d,),
                f"{layer}.post_attention_layernorm.bias": (d,),
                f"{layer}.attention.query_key_value.weight": (3 * d, d),
                f"{layer}.attention.query_key_value.bias": (3 * d,),
                f"{layer}.attention.dense.weight": (d, d),
                f"{layer}.attention.dense.bias": (d,),
                f"{layer}.mlp.dense_h_to_4h.weight": (m, d),
                f"{layer}.mlp.dense_h_to_4h.bias": (m,),
                f"{layer}.mlp.dense_4h_to_h.weight": (d, m),
                f"{layer}.mlp.dense_4h_to_h.bias": (d,),
            }
        return shapes | {f"{FINAL_NORM}.weight": (d,), f"{FINAL_NORM}.bias": (d,), HEAD: (v, d)}

    def config(self) -> dict[str, Any]:
        """Return a ``config.json`` in fp16 that readers before and after transformers 5 understand alike."""
        return {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "hidden_act": "gelu",
            "use_parallel_residual": True,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.mlp_width,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "layer_norm_eps": self.norm_epsilon,
            "rotary_pct": self.rotary_size / self.head_size,
            "rotary_emb_base": self.rotary_base,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": self.rotary_base,
                "partial_rotary_factor": self.rotary_size / self.head_size,
            },
            "bos_token_id": self.end_of_text,
            "eos_token_id": self.end_of_text,
            "initializer_range": 0.02,
            "use_cache": True,
            "torch_dtype": "float16",
            "dtype": "float16",
        }


def layer_name(index: int) -> str:
    """Return the prefix of the tensors of layer `index`."""
    return f"gpt_neox.layers.{index}"


LINEARS = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
MIXED, DENSE, EXPAND, CONTRACT = LINEARS
"""The linear layers within one layer."""


def read_config(path: Path, *, quantized: bool = False) -> Architecture:
    """Read a ``config.json``; `quantized` says that it is an artifact's, whose quantization_config is not our matter.

    Raises:
        SourceError: not JSON, not GPT-NeoX, or a field whose value (or name) we do not handle.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot be read as JSON ({error})", where=str(path)) from error
    if not isinstance(fields, dict):
        raise SourceError("is not a JSON object", where=str(path))
    if quantized:
        fields.pop("quantization_config", None)
    return parse_config(fields, where=str(path))


def parse_config(fields: dict[str, Any], where: str = "config.json") -> Architecture:
    """Turn the fields of a ``config.json`` into an architecture; see :func:`read_config`."""
    if fields.get("model_type") != "gpt_neox":
        raise SourceError(
            f"model_type is {fields.get('model_type')!r}; only gpt_neox (Pythia) is handled",
            where=where,
            hint="give a GPT-NeoX checkpoint, such as EleutherAI/pythia-160m",
        )
    if fields.get("architectures") not in (None, [], ["GPTNeoXForCausalLM"]):
        raise SourceError(
            f"architectures is {fields['architectures']}; only GPTNeoXForCausalLM is handled",
            where=where,
            hint="give a checkpoint with a language-model head",
        )
    for name, value in fields.items():
        if name in _REQUIRED:
            if value != _REQUIRED[name]:
                raise SourceError(
                    f"{name} is {value!r}; only {_REQUIRED[name]!r} is handled",
                    where=where,
                    hint="this checkpoint computes something that no format here can express",
                )
        elif name not in _READ | _IGNORED:
            raise SourceError(
                f"the field {name!r} is not handled",
                where=where,
                hint="if it changes nothing at inference, remove it from config.json",
            )
    width, heads = _integer(fields, "hidden_size", where), _integer(fields, "num_attention_heads", where)
    if width % heads:
        raise SourceError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}", where=where)
    base, share = _rotary(fields, where)
    rotary_size = int(width // heads * share)
    if rotary_size % 2 or not 0 < rotary_size <= width // heads:
        raise SourceError(f"rotary embedding over {rotary_size} of {width // heads} head dimensions", where=where)
    return Architecture(
        layers=_integer(fields, "num_hidden_layers", where),
        width=width,
        heads=heads,
        mlp_width=_integer(fields, "intermediate_size", where),
        vocabulary=_integer(fields, "vocab_size", where),
        context=_integer(fields, "max_position_embeddings", where),
        rotary_size=rotary_size,
        rotary_base=base,
        norm_epsilon=float(fields.get("layer_norm_eps", 1e-5)),
        end_of_text=fields.get("eos_token_id", 0),
    )


def _integer(fields: dict[str, Any], name: str, where: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise SourceError(f"{name} is {value!r}; a positive integer is needed", where=where)
    return value


def _rotary(fields: dict[str, Any], where: str) -> tuple[float, float]:
    """Return base and share of the head that rotates, from the names before or after transformers 5."""
    new = fields.get("rope_parameters") or {}
    unknown = set(new) - {"rope_type", "rope_theta", "partial_rotary_factor"}
    if unknown or new.get("rope_type", "default") != "default":
        raise SourceError(f"rope_parameters is {new!r}; only the default rotary embedding is handled", where=where)
    base = new.get("rope_theta", fields.get("rotary_emb_base", fields.get("rope_theta", 10000)))
    share = new.get("partial_rotary_factor", fields.get("rotary_pct", fields.get("partial_rotary_factor", 0.25)))
    for name, chosen in (("rotary_emb_base", base), ("rotary_pct", share)):
        if fields.get(name, chosen) != chosen:
            raise SourceError(f"{name} is {fields[name]!r} but rope_parameters says {chosen!r}", where=where)
    return float(base), float(share)
