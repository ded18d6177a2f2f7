"""Chats: an artifact's chat template, and answers in the shape of chats."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from pythia_quant.artifacts.pieces import TokenScore
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import own_file, read_object
from pythia_quant.core.text import short
from pythia_quant.model.tokenizer import SETTINGS
from pythia_quant.serve.answers import CompletionAnswer
from pythia_quant.serve.engine import Begun, Done, Part
from pythia_quant.serve.refusals import Refusal
from pythia_quant.serve.requests import StreamOptions
from pythia_quant.serve.token_names import token_bytes, token_name

_FILE = "chat_template.jinja"
_MOST_BYTES = 1_000_000


class ChatTemplate:
    """The chat template of an artifact. transformers renders it in jinja's sandbox.

    Args:
        folder: the artifact's folder.

    Attributes:
        text: the template; None if the artifact has none.

    Raises:
        ArtifactError: a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        settings = own_file(folder, SETTINGS, ArtifactError)
        fields = read_object(settings, ArtifactError) if settings else {}
        self.text = _read(folder) or _usual(fields.get("chat_template"))
        names = ((name, fields.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token"))
        tokens = {name: one.get("content") if isinstance(one, dict) else one for name, one in names}
        self._tokens: dict[str, Any] = {name: token for name, token in tokens.items() if isinstance(token, str)}

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the prompt of a chat, up to where the assistant's turn begins.

        Raises:
            Refusal: there is no template, or it refuses the messages.
        """
        if self.text is None:
            what = "this model has no chat template: it continues texts; ask /v1/completions"
            raise Refusal(400, what, code="no_chat_template")
        # It takes seconds to import, and memory: only chats need it.
        from transformers.utils.chat_template_utils import render_jinja_template  # noqa: PLC0415

        try:
            rendered: Any = render_jinja_template(
                [list(messages)], chat_template=self.text, add_generation_prompt=True, **self._tokens
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"the chat template refuses the messages: {short(str(error), 200)}"
            raise Refusal(400, what, parameter="messages", code="chat_template") from error
        texts = rendered[0] if isinstance(rendered, tuple) else rendered
        return str(texts[0] if isinstance(texts, list) else texts)


class ChatAnswer(CompletionAnswer):
    """What ``/v1/chat/completions`` answers to one request."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def _name(self) -> str:
        return f"chatcmpl-{uuid.uuid4().hex}"

    def chunks(self, event: Begun | Part | Done, options: StreamOptions) -> list[dict[str, Any]]:
        chunks = super().chunks(event, options)
        for chunk in chunks:
            for choice in chunk["choices"]:
                message = choice.pop("message")
                choice["delta"] = message if isinstance(event, Begun) or message["content"] else {}
        return chunks

    def _began(self, event: Begun) -> list[dict[str, Any]]:
        return [self._turn(event.choice, "", [], None) | {"message": {"role": "assistant", "content": ""}}]

    def _choice(self, event: Part) -> dict[str, Any]:
        return self._turn(event.choice, event.piece.text, event.piece.tokens, event.piece.finish)

    def _turn(self, index: int, text: str, tokens: Sequence[TokenScore], finish: str | None) -> dict[str, Any]:
        scores = {"content": [self._score(one) for one in tokens]} if self._scored else None
        return {"index": index, "message": {"content": text}, "logprobs": scores, "finish_reason": finish}

    def _score(self, one: TokenScore) -> dict[str, Any]:
        likeliest = [self._named(token, value) for token, value in one.likeliest]
        return self._named(one.token, one.log_probability) | {"top_logprobs": likeliest}

    def _named(self, token: int, value: float | None) -> dict[str, Any]:
        name, content = token_name(self._tokenizer, token), token_bytes(self._tokenizer, token)
        return {"token": name, "logprob": value, "bytes": list(content)}

    def _joined(self, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        one.setdefault("parts", []).append(other["message"]["content"])
        if one["logprobs"] is not None:
            one["logprobs"]["content"].extend(other["logprobs"]["content"])
        one["finish_reason"] = other["finish_reason"]
        return one

    def _complete(self, choice: dict[str, Any]) -> dict[str, Any]:
        choice["message"]["content"] = "".join(choice.pop("parts", []))
        return choice


def _read(folder: Path) -> str | None:
    path = own_file(folder, _FILE, ArtifactError)
    if path is None:
        return None
    content = path.read_bytes()
    if len(content) > _MOST_BYTES:
        raise ArtifactError(f"has more than {_MOST_BYTES:,} bytes", where=str(path))
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ArtifactError("is not UTF-8", where=str(path)) from None


def _usual(template: object) -> str | None:
    """Return the template of ``tokenizer_config.json``, where it is a text, or one of several with names."""
    if isinstance(template, str):
        return template
    if isinstance(template, list):
        found = (one.get("template") for one in template if isinstance(one, dict) and one.get("name") == "default")
        return next((text for text in found if isinstance(text, str)), None)
    return None
