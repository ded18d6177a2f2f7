"""What can go wrong between a client and the hub, on demand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loopback.exchange import Answer

if TYPE_CHECKING:
    from loopback.hub import Hub


@dataclass
class Fault:
    """Something that happens to the next `times` requests that match, after the first `skip` of them.

    Args:
        method: pattern of the whole method: "PUT", "GET|HEAD".
        path_regex: pattern found anywhere in the path, which is unquoted and without its query.
        status: answered instead of doing the work.
        headers: of the answer with that status.
        body: JSON of the answer with that status, besides `error`.
        times: how often it still happens.
        skip: how many matching requests it still leaves alone.
        stall: seconds before the work is done and answered.
        cut: bytes of the request's body that are read, or of the answer's when the request has none, before the
            connection is closed.
        lose_answer: do the work, then close the connection instead of answering.
        before: called before the work is done, to change the hub under the request.
        alter: called with the answer, returns what is sent instead; a length in its headers is sent as it is.
    """

    method: str
    path_regex: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    times: int = 1
    skip: int = 0
    stall: float = 0.0
    cut: int | None = None
    lose_answer: bool = False
    before: Callable[[Hub], object] | None = None
    alter: Callable[[Answer], Answer] | None = None

    def strikes(self, method: str, path: str) -> bool:
        """Say whether it happens to this request, and count that it does."""
        if not (self.times and re.fullmatch(self.method, method) and re.search(self.path_regex, path)):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True
