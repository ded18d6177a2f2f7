"""A request and its answer, without the connection between them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """A request as the log keeps it: the path unquoted and without its query, the names of headers in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body_size: int


@dataclass(frozen=True)
class Answer:
    """What the hub says; the length of the body is told by the server."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def in_json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Return an answer with a JSON body."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))


class Refusal(Exception):  # noqa: N818
    """The hub does not do it. Over http the client knows what a 401 or 404 is about by its code only."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        told = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = in_json({"error": message}, status, told | (headers or {}))
