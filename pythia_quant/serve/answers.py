"""Answers to requests for completions, whole or in parts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from pythia_quant.artifacts.pieces import TokenScore
from pythia_quant.serve.engine import Begun, Done, Part
from pythia_quant.serve.requests import StreamOptions
from pythia_quant.serve.token_names import token_name


class CompletionAnswer:
    """What ``/v1/completions`` answers to one request.

    Args:
        model: the name of the model.
        tokenizer: names tokens.
        prompts: the text of each prompt, which is part of the answer if `echo` is true.
        tokens: how many tokens the prompts have together.
        echo: whether choices begin with their prompts.
        scored: whether log-probabilities were asked for.
    """

    kind = chunk_kind = "text_completion"

    def __init__(
        self, model: str, tokenizer: Tokenizer, prompts: Sequence[str], tokens: int, *, echo: bool, scored: bool
    ) -> None:
        self._tokenizer, self._prompts, self._tokens = tokenizer, prompts, tokens
        self._echo, self._scored = echo, scored
        self._starts: dict[int, int] = {}
        self._made: dict[int, int] = {}
        self._head = {"id": self._name(), "created": int(time.time()), "model": model}

    def chunks(self, event: Begun | Part | Done, options: StreamOptions) -> list[dict[str, Any]]:
        """Return the parts of a stream that an event gives."""
        if isinstance(event, Done):
            return [self._chunk([]) | {"usage": self.usage(event)}] if options.include_usage else []
        if isinstance(event, Part):
            self._made[event.choice] = event.piece.generated
        usage: dict[str, Any] = {"usage": None} if options.include_usage else {}
        if options.continuous_usage_stats:
            usage = {"usage": self.usage(Done(sum(self._made.values()), 0))}
        choices = self._began(event) if isinstance(event, Begun) else [self._choice(event)]
        return [self._chunk([choice]) | usage for choice in choices]

    def whole(self, events: Sequence[Begun | Part | Done]) -> dict[str, Any]:
        """Return the answer that is no stream."""
        choices: dict[int, dict[str, Any]] = {}
        usage: dict[str, Any] = {}
        for event in events:
            if isinstance(event, Done):
                usage = self.usage(event)
                continue
            for part in self._began(event) if isinstance(event, Begun) else [self._choice(event)]:
                known = choices.get(part["index"])
                choices[part["index"]] = part if known is None else self._joined(known, part)
        body = {"object": self.kind, "choices": [self._complete(choices[at]) for at in sorted(choices)]}
        return self._head | body | {"usage": usage}

    def usage(self, done: Done) -> dict[str, Any]:
        """Return the numbers of tokens."""
        return {
            "prompt_tokens": self._tokens,
            "completion_tokens": done.generated,
            "total_tokens": self._tokens + done.generated,
            "prompt_tokens_details": {"cached_tokens": done.reused},
        }

    def _name(self) -> str:
        return f"cmpl-{uuid.uuid4().hex}"

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": self.chunk_kind, "choices": choices}

    def _began(self, event: Begun) -> list[dict[str, Any]]:
        """Return what a choice begins with: its prompt, if that is wanted."""
        text = self._prompts[event.prompt] if self._echo else ""
        self._starts[event.choice] = len(text)
        if not self._echo:
            return []
        scores = self._logprobs(event.scores or [], 0) if self._scored else None
        return [{"index": event.choice, "text": text, "logprobs": scores, "finish_reason": None}]

    def _choice(self, event: Part) -> dict[str, Any]:
        scores = self._logprobs(event.piece.tokens, self._starts.get(event.choice, 0)) if self._scored else None
        return {
            "index": event.choice,
            "text": event.piece.text,
            "logprobs": scores,
            "finish_reason": event.piece.finish,
        }

    def _logprobs(self, tokens: Sequence[TokenScore], start: int) -> dict[str, Any]:
        """Return log-probabilities in the shape of completions; the chosen token is among the likeliest, as there."""
        names = [token_name(self._tokenizer, one.token) for one in tokens]
        likeliest = []
        for one, name in zip(tokens, names, strict=True):
            named: dict[str, float] = {}
            for token, value in one.likeliest:  # two tokens may have one text: the likelier one's value stays
                named.setdefault(token_name(self._tokenizer, token), value)
            if one.log_probability is not None:
                named.setdefault(name, one.log_probability)
            likeliest.append(named if one.log_probability is not None else None)
        return {
            "tokens": names,
            "token_logprobs": [one.log_probability for one in tokens],
            "top_logprobs": likeliest,
            "text_offset": [start + one.offset for one in tokens],
        }

    def _joined(self, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        """Append a part of a choice to its beginning, in place: a text has as many parts as tokens."""
        one.setdefault("parts", [one["text"]]).append(other["text"])
        if one["logprobs"] is not None:
            for key, values in other["logprobs"].items():
                one["logprobs"][key].extend(values)
        one["finish_reason"] = other["finish_reason"]
        return one

    def _complete(self, choice: dict[str, Any]) -> dict[str, Any]:
        parts = choice.pop("parts", [choice["text"]])
        return choice | {"text": "".join(parts)}
