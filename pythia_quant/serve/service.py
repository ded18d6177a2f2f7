"""From requests to jobs of the engine, and from its events to responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from pythia_quant.artifacts.pieces import Wish
from pythia_quant.artifacts.prompts import Prompts
from pythia_quant.core.errors import CorpusError
from pythia_quant.serve.answers import CompletionAnswer
from pythia_quant.serve.chats import ChatAnswer, ChatTemplate
from pythia_quant.serve.engine import Begun, Done, Engine, Job, Part
from pythia_quant.serve.inbox import Inbox
from pythia_quant.serve.metrics import Metrics
from pythia_quant.serve.refusals import Refusal
from pythia_quant.serve.requests import MOST_CHOICES, Ask, ChatRequest, CompletionRequest, StreamOptions, parse
from pythia_quant.serve.transport import LAST, EventStream, event, read_body, while_there

_DEFAULT_TOKENS = 16  # of completions, as in OpenAI's API

A = TypeVar("A", bound=Ask)


class Service:
    """Answers requests with one model.

    Args:
        reader: makes tokens of prompts.
        engine: generates.
        template: the chat template.
        names: what the model may be called; the first one is told to clients.
        metrics: what is counted.
    """

    def __init__(
        self, reader: Prompts, engine: Engine, template: ChatTemplate, names: Sequence[str], metrics: Metrics
    ) -> None:
        self._reader, self._engine, self._template = reader, engine, template
        self.names, self._metrics = names, metrics

    async def complete(self, request: Request) -> Response:
        """Answer ``POST /v1/completions``.

        Raises:
            ClientGone: the client closed the connection.
            Refusal: the request is not served.
        """
        ask = await self._read(request, CompletionRequest)
        prompts = ask.prompts()
        if ask.best_of not in (None, 1, ask.n or 1):
            raise Refusal(400, "best_of is not handled: leave it out", parameter="best_of")
        _check_number(len(prompts), ask)  # before they are tokenized, which takes seconds for so many as fit a body
        tokens = await asyncio.to_thread(lambda: [self._tokens(prompt) for prompt in prompts])
        count = _DEFAULT_TOKENS if ask.max_tokens is None else ask.max_tokens
        if count == 0 and not ask.echo:
            raise Refusal(400, "max_tokens is 0, which needs echo", parameter="max_tokens")
        decode = self._reader.tokenizer.decode
        texts = [one if isinstance(one, str) else decode(one) for one in prompts] if ask.echo else []
        answer = CompletionAnswer(
            self.names[0],
            self._reader.tokenizer,
            texts,
            sum(map(len, tokens)),
            echo=bool(ask.echo),
            scored=ask.logprobs is not None,
        )
        return await self._answer(request, ask, answer, tokens, ask.wish(count, ask.logprobs), echo=bool(ask.echo))

    async def chat(self, request: Request) -> Response:
        """Answer ``POST /v1/chat/completions``.

        Raises:
            ClientGone: the client closed the connection.
            Refusal: the request is not served, or the artifact has no chat template.
        """
        if self._template.text is None:
            self._template.render([])  # refuses, whatever is asked
        ask = await self._read(request, ChatRequest)
        messages = [message.data() for message in ask.messages]
        prompt = await asyncio.to_thread(self._template.render, messages)
        tokens = await asyncio.to_thread(self._tokens, prompt)
        wanted = ask.max_tokens if ask.max_completion_tokens is None else ask.max_completion_tokens
        count = self._reader.architecture.context - len(tokens) if wanted is None else wanted
        alternatives = (ask.top_logprobs or 0) if ask.logprobs else None
        answer = ChatAnswer(
            self.names[0], self._reader.tokenizer, [], len(tokens), echo=False, scored=bool(ask.logprobs)
        )
        return await self._answer(request, ask, answer, [tokens], ask.wish(max(count, 1), alternatives), echo=False)

    async def _read(self, request: Request, kind: type[A]) -> A:
        ask = parse(kind, await read_body(request))
        if ask.model is not None and ask.model not in self.names:
            what = f"there is no model {ask.model[:80]!r} here, only {self.names[0]!r}"
            raise Refusal(404, what, parameter="model", code="model_not_found")
        return ask

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            try:
                return self._reader.encode(prompt)
            except CorpusError as error:
                raise Refusal(400, f"the prompt cannot be tokenized: {error.what}", parameter="prompt") from error
        vocabulary = self._reader.architecture.vocabulary
        wrong = next((token for token in prompt if not 0 <= token < vocabulary), None)
        if wrong is not None:
            what = f"{wrong} is no token of this model, which has {vocabulary:,}"
            raise Refusal(400, what, parameter="prompt", code="invalid_token")
        return prompt

    async def _answer(
        self,
        request: Request,
        ask: Ask,
        answer: CompletionAnswer,
        tokens: list[list[int]],
        wish: Wish,
        *,
        echo: bool,
    ) -> Response:
        choices, context = ask.n or 1, self._reader.architecture.context
        longest = max(map(len, tokens))
        if longest + wish.count > context:
            what = (
                f"this model's context is {context:,} tokens; {longest:,} of the prompt and {wish.count:,} new ones "
                "are more: shorten the prompt, or lower max_tokens"
            )
            raise Refusal(400, what, parameter="prompt", code="context_length_exceeded")
        inbox = Inbox()
        job = Job(tokens, wish, choices, echo, inbox.put)
        self._engine.submit(job)

        def ended(gone: bool) -> None:
            job.cancelled = True
            if gone:
                self._metrics.cancelled.inc()

        if ask.stream:
            return EventStream(_stream(inbox, answer, ask.stream_options or StreamOptions()), ended)
        gone = True
        try:
            events = await while_there(request.receive, _all(inbox))
            gone = False
        except Refusal:
            gone = False
            raise
        finally:
            ended(gone)
        return JSONResponse(answer.whole(events))


def _check_number(prompts: int, ask: Ask) -> None:
    if prompts * (ask.n or 1) > MOST_CHOICES:
        raise Refusal(400, f"at most {MOST_CHOICES} texts are made for one request", parameter="n")


async def _all(inbox: Inbox) -> list[Begun | Part | Done]:
    return [one async for batch in inbox.batches() for one in batch]


async def _stream(inbox: Inbox, answer: CompletionAnswer, options: StreamOptions) -> AsyncIterator[bytes]:
    """Yield an answer as server-sent events. One that was cut has an error at its end, and no ``[DONE]``."""
    try:
        async for batch in inbox.batches():
            yield b"".join(event(chunk) for one in batch for chunk in answer.chunks(one, options))
    except Refusal as refusal:
        yield event(refusal.body())
        return
    yield LAST
