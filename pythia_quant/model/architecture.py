"""The shape of a GPT-NeoX model: everything but weights that decides what it computes, and its tensors' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

EMBEDDING, HEAD = "gpt_neox.embed_in.weight", "embed_out.weight"
FINAL_NORM = "gpt_neox.final_layer_norm"

Activation = Literal["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu"]
"""The MLP's function by its name in transformers; ``gelu`` is the exact one, the next three are its tanh form."""


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions are stretched.

    ``linear`` divides every position by `factor`; ``dynamic`` changes the base only beyond the context.
    """

    kind: Literal["linear", "dynamic"]
    factor: float


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of tokens with a meaning; None, or an empty tuple, where the model has none.

    Attributes:
        begin: the token that begins a text.
        ends: the tokens that end a text, the usual one first.
        pad: the token that fills up the rows of a batch.
    """

    begin: int | None = 0
    ends: tuple[int, ...] = (0,)
    pad: int | None = None

    @property
    def end(self) -> int | None:
        """The usual end of a text."""
        return self.ends[0] if self.ends else None


@dataclass(frozen=True)
class Update:
    """What a layer adds to the hidden states at once.

    Attributes:
        inner: the linear layers that read the hidden states, each through its norm, see :data:`NORM_OF`.
        outer: the linear layers whose results are added to the hidden states; each follows the `inner` layer at its
            place.
    """

    inner: tuple[str, ...]
    outer: tuple[str, ...]


@dataclass(frozen=True)
class Architecture:
    """The shape of a GPT-NeoX model.

    Attributes:
        layers: the number of layers.
        width: the width of the hidden states.
        heads: the number of attention heads.
        mlp_width: the width of the MLP's inner states.
        vocabulary: the rows of both embedding matrices.
        context: the number of positions.
        rotary_size: the dimensions of a head that rotate.
        rotary_base: the base of the rotary embedding.
        norm_epsilon: the epsilon of every LayerNorm.
        parallel_residual: whether attention and MLP read the same hidden states; else the MLP reads attention's sum.
        activation: the MLP's function.
        rope_scaling: how positions are stretched; None when they are not.
        tied: whether the source's head is its embedding matrix. Artifacts have both.
        attention_biases: whether the source's attention has biases. Artifacts have them, and they may be 0.
        tokens: ids of tokens with a meaning.
    """

    layers: int
    width: int
    heads: int
    mlp_width: int
    vocabulary: int
    context: int
    rotary_size: int
    rotary_base: float
    norm_epsilon: float
    parallel_residual: bool = True
    activation: Activation = "gelu"
    rope_scaling: RopeScaling | None = None
    tied: bool = False
    attention_biases: bool = True
    tokens: SpecialTokens = SpecialTokens()

    @property
    def head_size(self) -> int:
        """Dimensions of one attention head."""
        return self.width // self.heads

    @property
    def updates(self) -> tuple[Update, ...]:
        """What a layer adds, in order: all at once, or the attention's result first, which the MLP then reads."""
        together = Update((MIXED, EXPAND), (DENSE, CONTRACT))
        return (together,) if self.parallel_residual else (Update((MIXED,), (DENSE,)), Update((EXPAND,), (CONTRACT,)))

    @property
    def most_inputs(self) -> int:
        """The most inputs of linear layers whose results are added at once."""
        size = {DENSE: self.width, CONTRACT: self.mlp_width}
        return max(sum(size[name] for name in update.outer) for update in self.updates)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model, embedding matrices and all biases included; a tied one counts once."""
        return (1 if self.tied else 2) * self.vocabulary * self.width + self.non_embedding_parameters

    @property
    def non_embedding_parameters(self) -> int:
        """Parameters without the two embedding matrices."""
        d, m = self.width, self.mlp_width
        attention = 4 * d * d + (4 * d if self.attention_biases else 0)
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
            "hidden_act": self.activation,
            "use_parallel_residual": self.parallel_residual,
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
            **self._rope(),
            "bos_token_id": self.tokens.begin,
            "eos_token_id": list(ends) if len(ends := self.tokens.ends) > 1 else self.tokens.end,
            **({} if self.tokens.pad is None else {"pad_token_id": self.tokens.pad}),
            "initializer_range": 0.02,
            "use_cache": True,
            "torch_dtype": "float16",
            "dtype": "float16",
        }

    def _rope(self) -> dict[str, Any]:
        scaling = self.rope_scaling
        fields = {
            "rope_type": scaling.kind if scaling else "default",
            "rope_theta": self.rotary_base,
            "partial_rotary_factor": self.rotary_size / self.head_size,
        }
        if scaling is None:
            return {"rope_parameters": fields}
        return {
            "rope_parameters": fields | {"factor": scaling.factor},
            "rope_scaling": {"type": scaling.kind, "factor": scaling.factor},
        }


def layer_name(index: int) -> str:
    """Return the prefix of the tensors of layer `index`."""
    return f"gpt_neox.layers.{index}"


LINEARS = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
MIXED, DENSE, EXPAND, CONTRACT = LINEARS
"""The linear layers within one layer."""
ATTENTION_BIASES = (f".{MIXED}.bias", f".{DENSE}.bias")
"""The endings of the names of the biases that an attention may lack."""

NORM_OF = {MIXED: "input_layernorm", EXPAND: "post_attention_layernorm"}
"""The norm through which a linear layer reads the hidden states."""
