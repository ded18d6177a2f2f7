"""Our artifacts as a model of EleutherAI's lm-evaluation-harness, for any of its tasks.

lm_eval finds models in a table and has no entry points, so this module must be imported to add ours. Start the command
line as ``python -m pythia_quant.integrations.lm_eval run --model pythia-quant --model_args artifact=FOLDER
--tasks lambada_openai``, or import this module before you call ``lm_eval.simple_evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.bench.lambada_accuracy import judge, predict
from pythia_quant.core import machine
from pythia_quant.core.console import print_error
from pythia_quant.core.errors import ArtifactError, BenchmarkError, PythiaQuantError, SourceError, nearest
from pythia_quant.core.settings import MOST_TOKENS
from pythia_quant.core.text import log_printable, short
from pythia_quant.formats.table import format_of
from pythia_quant.model.generation_config import read_model
from pythia_quant.model.tokenizer import TOKENIZER, open_tokenizer, tokenize
from pythia_quant.runtimes.protocol import Runtime
from pythia_quant.runtimes.sampling import HIGHEST_TEMPERATURE, Sampler, Sampling
from pythia_quant.runtimes.transformers import open_model
from pythia_quant.texts.lambada import Example

try:
    import lm_eval.models  # first, because lm_eval adds its own models only to an empty table  # noqa: F401
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm
except ImportError as missing:
    raise BenchmarkError(f"lm_eval cannot be imported ({missing})", hint="pip install lm_eval tqdm") from missing

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

NAME = "pythia-quant"
"""The name of our model for lm_eval's ``--model``."""

_DTYPES = ("bfloat16", "float16", "float32")
_NEW_TOKENS = 256  # if a task names no number, as in lm_eval's own models
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = {"top_k", "top_p"}


@register_model(NAME)
class PythiaQuantLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """An artifact, or an unquantized checkpoint, on the CPU. Requests are run one at a time.

    Args:
        artifact: the folder of an artifact.
        source: the folder of a checkpoint, in place of `artifact`.
        dtype: the dtype of a checkpoint's weights and arithmetic.
        threads: the number of threads of the runtime; by default, one for each processor.
        seed: the seed of sampling, for tasks that sample.
        batch_size: ignored, because results do not depend on it; lm_eval always passes it.
        max_batch_size: ignored, like `batch_size`.
        device: ignored; lm_eval's command line passes ``cuda:0`` if the user names no device.

    Raises:
        ArtifactError: the artifact cannot be opened.
        BenchmarkError: there is not exactly one folder, or a setting is unknown or has a wrong value.
        SourceError: the checkpoint cannot be opened.
    """

    def __init__(
        self,
        artifact: str | None = None,
        source: str | None = None,
        dtype: str = "float32",
        threads: int | None = None,
        seed: int = 0,
        batch_size: int | str = 1,  # noqa: ARG002 - lm_eval's
        max_batch_size: int | None = None,  # noqa: ARG002 - lm_eval's
        device: str | None = None,  # noqa: ARG002 - lm_eval's
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            settings = ("artifact", "source", "dtype", "threads", "seed")
            name = next(iter(unknown))
            raise BenchmarkError(f"there is no setting {name!r}", where="--model_args", hint=nearest(name, settings))
        if (artifact is None) == (source is None):
            raise BenchmarkError(
                "give either an artifact or a source", where="--model_args", hint="for example artifact=FOLDER"
            )
        folder = Path(str(artifact if source is None else source))  # lm_eval turns a name of digits into a number
        for name, value, least, most in (("threads", threads, 1, 4096), ("seed", seed, 0, 2**63 - 1)):
            if value is not None and not _is_whole(value, least, most):
                what = f"{name} is {short(value)}; a whole number from {least} to {most:,} is needed"
                raise BenchmarkError(what, where="--model_args")
        torch.set_num_threads(threads or machine.cores())
        if artifact is None:
            self._runtime: Runtime = open_model(folder, _dtype(dtype))
        else:
            entry = format_of(open_artifact(folder).settings)
            entry.try_elsewhere(folder)
            self._runtime = entry.open_runtime(folder, threads or machine.cores())
        self._shape = read_model(folder, quantized=artifact is not None)
        kind = ArtifactError if artifact else SourceError
        self._tokenizer = open_tokenizer(folder / TOKENIZER, self._shape.vocabulary, kind)
        self._seed, self._samplers = seed, dict[Sampling, Sampler]()

    @property
    def description(self) -> str:
        """The library, the kernel and the dtype; see :class:`pythia_quant.runtimes.protocol.Runtime`."""
        return self._runtime.description

    @property
    def eot_token_id(self) -> int:
        """The token that usually ends a text."""
        return self._shape.tokens.end or 0

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context: the one that begins a text, as in lm_eval's own models."""
        begin = self._shape.tokens.begin
        return self.eot_token_id if begin is None else begin

    @property
    def max_length(self) -> int:
        """The model's context, tokens."""
        return self._shape.context

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,  # noqa: ARG002 - Pythia's tokenizer has none to add
        **_: Any,
    ) -> list[int]:
        """Tokenize a text, without special tokens."""
        ids: list[int] = tokenize(self._tokenizer, string).ids
        return ids

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihoods of whole texts, nats. lm_eval's windows predict each token once."""
        totals = []
        for request in tqdm(requests, desc="texts", disable=disable_tqdm):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            parts = [(None, *make_disjoint_window(window)) for window in windows]
            total = sum(likelihood for likelihood, _ in self._loglikelihood_tokens(parts, disable_tqdm=True))
            totals.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue contexts up to a stop string or the end of the text; the stop string is not part of the result.

        Raises:
            BenchmarkError: a generation setting is not handled, or the new tokens leave no room for the context.
        """
        texts = []
        for request in tqdm(requests, desc="continuations", disable=disable_tqdm):
            context, settings = request.args
            text = self._continue(context, **_parse_generation(settings))
            texts.append(text)
            self.cache_hook.add_partial("generate_until", (context, settings), text)
        return texts

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        answers = []
        previous = None
        for texts, context, continuation in tqdm(requests, desc="continuations", disable=disable_tqdm):
            # Answers of one token to one question follow each other, and the model reads the same tokens for all.
            inputs = (context + continuation[:-1], len(continuation))
            if inputs != previous:
                predictions = predict(self._runtime, Example(context, continuation), self.max_length)
                previous = inputs
            answer = judge(predictions, continuation)
            answers.append(answer)
            if texts is not None:  # a window of a rolling text is no request
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _continue(self, context: str, stops: Sequence[str], count: int, sampling: Sampling) -> str:
        room = self.max_length - count
        if room < 1:
            raise BenchmarkError(
                f"{count:,} new tokens leave no room for a context in the model's {self.max_length:,} positions",
                hint=f"lower max_gen_toks, for example --gen_kwargs max_gen_toks={self.max_length // 4}",
            )
        ids = self.tok_encode(context)[-room:] or [self.prefix_token_id]
        # One sampler for all requests of a setting: each seed gives a run, not a text.
        sampler = self._samplers.setdefault(sampling, Sampler(replace(sampling, seed=self._seed)))
        logits = self._runtime.prefill(torch.tensor(ids), len(ids) + count)
        added: list[int] = []
        text = ""
        while len(added) < count:
            token = sampler.choose(logits.numpy())
            if token in self._shape.tokens.ends:
                break
            added.append(token)
            text = self._tokenizer.decode(added)
            if any(stop in text for stop in stops):
                break
            if len(added) < count:
                logits = self._runtime.step(token)
        for stop in stops:  # in lm_eval's order: if two overlap, the first one cuts off the second
            text = text.partition(stop)[0]
        return text


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise BenchmarkError(f"the dtype {name!r} is not handled", where="--model_args", hint=nearest(name, _DTYPES))
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _parse_generation(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the stop strings, the number of tokens and the sampling that a task's generation settings ask for."""
    handled = {"until", "do_sample", "temperature", *_LENGTHS, *_SAMPLING}
    if unknown := sorted(settings.keys() - handled):
        raise _setting_error(unknown[0], nearest(unknown[0], handled))
    sample = settings.get("do_sample")
    temperature = 0.0 if sample is False else settings.get("temperature", 1.0 if sample else 0.0)
    if not isinstance(temperature, int | float) or not 0 <= temperature <= HIGHEST_TEMPERATURE:
        hint = f"it is {short(temperature)}; give a number from 0 to {HIGHEST_TEMPERATURE:.0f}"
        raise _setting_error("temperature", hint)
    top_k, top_p = settings.get("top_k") or 0, settings.get("top_p", 1.0)
    if not _is_whole(top_k, 0, MOST_TOKENS):
        raise _setting_error("top_k", f"it is {short(top_k)}; give a whole number from 0 to {MOST_TOKENS:,}")
    if not isinstance(top_p, int | float) or not 0 < top_p <= 1:
        raise _setting_error("top_p", f"it is {short(top_p)}; give a number above 0, and at most 1")
    until = settings.get("until") or []
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, list | tuple) or not all(isinstance(stop, str) for stop in stops):
        raise _setting_error("until", f"it is {short(until)}; give a text, or a list of them")
    length = next((name for name in _LENGTHS if settings.get(name) is not None), "")
    count = settings[length] if length else _NEW_TOKENS
    if not _is_whole(count, 1, MOST_TOKENS):
        raise _setting_error(length, f"it is {short(count)}; give a whole number from 1 to {MOST_TOKENS:,}")
    sampling = Sampling(float(temperature), top_k, float(top_p))
    return {"stops": [stop for stop in stops if stop], "count": count, "sampling": sampling}


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _setting_error(name: str, hint: str) -> BenchmarkError:
    return BenchmarkError(f"the generation setting {name!r} is not handled", where="--gen_kwargs", hint=hint)


def main() -> None:
    """Run lm_eval's command line with our model in its table."""
    from lm_eval.__main__ import cli_evaluate  # noqa: PLC0415 - takes long to import

    log_printable()
    try:
        cli_evaluate()
    except PythiaQuantError as error:
        print_error(error)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
