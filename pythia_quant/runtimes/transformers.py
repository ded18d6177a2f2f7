"""GPT-NeoX in transformers: unquantized, with bitsandbytes, or with gptqmodel where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, GPTNeoXConfig, GPTNeoXForCausalLM

from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.model.architecture import HEAD, Architecture
from pythia_quant.model.source import ADAPTER, open_weights
from pythia_quant.model.weights import WeightReader
from pythia_quant.runtimes.protocol import check_capacity

transformers.logging.disable_progress_bar()


class HfRuntime:
    """A loaded model; see :class:`pythia_quant.runtimes.protocol.Runtime`.

    Args:
        model: in evaluation mode, on the device it runs on; ids come from the CPU and logits go back there.
        kernel: what computes the linear layers, and in which dtype.
    """

    def __init__(self, model: GPTNeoXForCausalLM, kernel: str) -> None:
        self.description = f"transformers {transformers.__version__}, torch {torch.__version__}, {kernel}, sdpa"
        self._model = model
        self._cache: DynamicCache
        self._length = self._capacity = 0

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        """Return logits for all positions: int64 [rows, tokens] in, fp32 [rows, tokens, vocabulary] out."""
        logits: Tensor = self._model(input_ids=ids.to(self._model.device), use_cache=False).logits
        return logits.float().cpu()

    def prefill(self, ids: Tensor, capacity: int) -> Tensor:
        """Start over with a prompt, int64 [tokens]; return the last position's logits, fp32 [vocabulary].

        Raises:
            BenchmarkError: `capacity` exceeds the positions the model has, or the prompt exceeds `capacity`.
        """
        context = self._model.config.max_position_embeddings
        if not len(ids) <= capacity <= context:
            raise BenchmarkError(
                f"a prompt of {len(ids)} tokens and {capacity} in all do not fit the model's {context} positions",
                hint="shorten the prompt or generate fewer tokens",
            )
        # The cache that transformers' generate() uses too: the baseline is measured as users run it.
        self._cache = DynamicCache(config=self._model.config)
        self._length, self._capacity = 0, capacity
        return self._feed(ids)

    def step(self, token: int) -> Tensor:
        """Feed one more token after a prefill; return fp32 [vocabulary].

        Raises:
            BenchmarkError: there was no prefill, or its capacity is used up.
        """
        return self._feed(torch.tensor([token]))

    @torch.inference_mode()
    def _feed(self, ids: Tensor) -> Tensor:
        self._length += len(ids)
        check_capacity(self._length, self._capacity)
        ids = ids[None].to(self._model.device)
        output = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[0, -1]
        return logits.float().cpu()


def open_model(folder: Path, dtype: torch.dtype, device: str = "cpu") -> HfRuntime:
    """Load an unquantized checkpoint.

    Args:
        folder: a checkpoint's, with ``config.json``.
        dtype: of weights and arithmetic.
        device: ``cpu`` or ``cuda``.

    Raises:
        ArtifactError: it cannot be loaded, or lacks tensors.
        SourceError: its tensors are not those that its ``config.json`` says.
    """
    weights = open_weights(folder)
    if not weights.plain or (folder / ADAPTER).exists():  # of a merged adapter: transformers would apply it again
        return HfRuntime(_built(weights, dtype).to(device), dtype_name(dtype))
    # Where both exist: the pickle is not opened at all. Where only it exists, weights_only refuses code in it.
    safe = next(folder.glob("*.safetensors"), None) is not None
    model: Any = load_pretrained(
        folder, dtype, use_safetensors=safe, weights_only=True, config=_config(weights.architecture)
    )
    return HfRuntime(model.to(device), dtype_name(dtype))


def _config(shape: Architecture) -> GPTNeoXConfig:
    """Return a checkpoint's configuration without the fields that do not matter: transformers stumbles over some."""
    return GPTNeoXConfig(
        **shape.config() | {"tie_word_embeddings": shape.tied, "attention_bias": shape.attention_biases}
    )


def _built(weights: WeightReader, dtype: torch.dtype) -> Any:
    """Build the model around tensors that transformers would not find by their stored names."""
    config = GPTNeoXConfig(**weights.architecture.config())
    with torch.device("meta"):  # no memory and no random values for what is replaced
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    model.gpt_neox.rotary_emb = type(model.gpt_neox.rotary_emb)(config)  # its frequencies are computed, not stored
    for name in weights.architecture.tensor_shapes():
        module, _, part = ("lm_head.weight" if name == HEAD else name).rpartition(".")
        tensor = nn.Parameter(weights.read(name).to(dtype), requires_grad=False)
        setattr(model.get_submodule(module), part, tensor)
    return model.eval()


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype without the library it belongs to: ``float16``."""
    return str(dtype).removeprefix("torch.")


def load_pretrained(folder: Path, dtype: torch.dtype, **options: Any) -> GPTNeoXForCausalLM:
    """Load a folder through transformers, from files of that folder only.

    Raises:
        ArtifactError: transformers refuses it, finds no value for a tensor, or would apply an adapter.
    """
    if (folder / ADAPTER).exists():
        what = f"holds {ADAPTER}, by which transformers loads another model where peft is installed"
        raise ArtifactError(what, where=str(folder), hint="it is no file of an artifact: move it elsewhere")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, attn_implementation="sdpa", output_loading_info=True, **options
        )
    except Exception as error:  # whatever it stumbles over
        raise ArtifactError(f"transformers cannot load it ({error})"[:500], where=str(folder)) from error
    model: GPTNeoXForCausalLM
    model, info = loaded
    # transformers only warns, and gives what is missing random values.
    missing = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
    if missing:
        raise ArtifactError(f"transformers finds no {missing[0]} ({len(missing)} such tensors)", where=str(folder))
    return model
