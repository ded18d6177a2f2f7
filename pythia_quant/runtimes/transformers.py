"""Run GPT-NeoX in transformers: unquantized, with bitsandbytes, or with gptqmodel if that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, GPTNeoXConfig, GPTNeoXForCausalLM

from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.model.architecture import HEAD, Architecture
from pythia_quant.model.place import ADAPTER
from pythia_quant.model.source import open_weights
from pythia_quant.model.weights import WeightReader
from pythia_quant.runtimes.protocol import check_capacity

transformers.logging.disable_progress_bar()


class HfRuntime:
    """A model in transformers as a :class:`~pythia_quant.runtimes.protocol.Runtime`.

    Args:
        model: the model in evaluation mode, on its device. Ids and logits are tensors on the CPU.
        kernel: words for the description: the kernel of the linear layers, and its dtype.
    """

    def __init__(self, model: GPTNeoXForCausalLM, kernel: str) -> None:
        self.description = f"transformers {transformers.__version__}, torch {torch.__version__}, {kernel}, sdpa"
        self._model = model
        self._cache: DynamicCache
        self._length = self._capacity = 0

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of all positions, fp32 [windows, tokens, vocabulary], of ids, int64 [windows, tokens]."""
        logits: Tensor = self._model(input_ids=ids.to(self._model.device), use_cache=False).logits
        return logits.float().cpu()

    def prefill(self, ids: Tensor, capacity: int) -> Tensor:
        """Begin a sequence with a prompt, int64 [tokens]; return the last position's logits, fp32 [vocabulary].

        Raises:
            BenchmarkError: `capacity` exceeds the model's context, or the prompt exceeds `capacity`.
        """
        context = self._model.config.max_position_embeddings
        if not len(ids) <= capacity <= context:
            raise BenchmarkError(
                f"a prompt of {len(ids)} tokens and {capacity} in all do not fit the model's {context} positions",
                hint="shorten the prompt or generate fewer tokens",
            )
        # generate() in transformers uses this cache, too: the baseline is measured as users run it.
        self._cache = DynamicCache(config=self._model.config)
        self._length, self._capacity = 0, capacity
        return self.extend(ids)

    def step(self, token: int) -> Tensor:
        """Append one token to the sequence; return the logits of its position, fp32 [vocabulary].

        Raises:
            BenchmarkError: there was no prefill, or the sequence already has as many tokens as its capacity.
        """
        return self.extend(torch.tensor([token]))

    @torch.inference_mode()
    def extend(self, ids: Tensor) -> Tensor:
        """Append tokens, int64 [tokens]; return the last one's logits, fp32 [vocabulary].

        Raises:
            BenchmarkError: the tokens do not fit the capacity.
        """
        check_capacity(self._length + len(ids), self._capacity)
        output = self._model(
            input_ids=ids[None].to(self._model.device), past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        self._length += len(ids)
        logits: Tensor = output.logits[0, -1]
        return logits.float().cpu()

    def rewind(self, tokens: int) -> None:
        """Forget all but the first `tokens` of the sequence."""
        if tokens < self._length:
            self._cache.crop(tokens - self._length)  # a negative number is of those to remove
            self._length = tokens


def open_model(folder: Path, dtype: torch.dtype, device: str = "cpu") -> HfRuntime:
    """Load an unquantized checkpoint.

    Args:
        folder: the folder of the checkpoint, with ``config.json``.
        dtype: the dtype of weights and arithmetic.
        device: ``cpu`` or ``cuda``.

    Raises:
        ArtifactError: transformers cannot load the checkpoint, or does not find a tensor.
        SourceError: the tensors are not those that ``config.json`` asks for.
    """
    weights = open_weights(folder)
    # Beside the file of an adapter that was merged into the weights, transformers would apply the adapter again.
    if not weights.plain or (folder / ADAPTER).exists():
        return HfRuntime(_build_model(weights, dtype).to(device), dtype_name(dtype))
    # If there are safetensors, a pickle beside them is not opened. If there is only a pickle, code in it is refused.
    safe = next(folder.glob("*.safetensors"), None) is not None
    model: Any = load_pretrained(
        folder, dtype, use_safetensors=safe, weights_only=True, config=_config(weights.architecture)
    )
    return HfRuntime(model.to(device), dtype_name(dtype))


def _config(shape: Architecture) -> GPTNeoXConfig:
    """Return a checkpoint's configuration without other fields than ours, because transformers fails on some."""
    return GPTNeoXConfig(
        **shape.config() | {"tie_word_embeddings": shape.tied, "attention_bias": shape.attention_biases}
    )


def _build_model(weights: WeightReader, dtype: torch.dtype) -> Any:
    """Build a model whose tensors transformers would not find, because they have other names in the files."""
    config = GPTNeoXConfig(**weights.architecture.config())
    with torch.device("meta"):  # allocates no memory for the tensors, which are replaced below
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    model.gpt_neox.rotary_emb = type(model.gpt_neox.rotary_emb)(config)  # its frequencies are computed, and in no file
    for name in weights.architecture.tensor_shapes():
        module, _, part = ("lm_head.weight" if name == HEAD else name).rpartition(".")
        tensor = nn.Parameter(weights.read(name).to(dtype), requires_grad=False)
        setattr(model.get_submodule(module), part, tensor)
    return model.eval()


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without the library's, for example ``float16``."""
    return str(dtype).removeprefix("torch.")


def load_pretrained(folder: Path, dtype: torch.dtype, **options: Any) -> GPTNeoXForCausalLM:
    """Load a folder through transformers, which reads no file outside the folder.

    Args:
        folder: the folder of a checkpoint or an artifact.
        dtype: the dtype of unquantized weights and of arithmetic.
        options: more arguments for transformers' ``from_pretrained``.

    Raises:
        ArtifactError: transformers refuses the folder, finds no value for a tensor, or would apply an adapter.
    """
    if (folder / ADAPTER).exists():
        what = f"holds {ADAPTER}: if peft is installed, transformers loads another model because of it"
        raise ArtifactError(what, where=str(folder), hint="it is no file of an artifact: move it elsewhere")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, attn_implementation="sdpa", output_loading_info=True, **options
        )
    except Exception as error:  # transformers raises many kinds
        raise ArtifactError(f"transformers cannot load it ({error})"[:500], where=str(folder)) from error
    model: GPTNeoXForCausalLM
    model, info = loaded
    # transformers only warns of missing tensors, and fills them with random values.
    missing = sorted(info["missing_keys"]) + sorted(key for key, *_ in info["mismatched_keys"])
    if missing:
        raise ArtifactError(f"transformers finds no {missing[0]} ({len(missing)} such tensors)", where=str(folder))
    return model
