"""Requests that are refused, in the shape of OpenAI's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from pythia_quant.core.text import printable


class Refusal(Exception):  # noqa: N818 - it is what the client did wrong, mostly
    """A request that is not served.

    Args:
        status: the HTTP status.
        message: what is wrong and what to do, for people.
        parameter: the field of the request that is wrong.
        code: a short name, for programs.
        headers: headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        parameter: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter, self.code = status, message, parameter, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the error as OpenAI's API writes it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {
            "error": {
                "message": printable(self.message),
                "type": kind,
                "param": self.parameter,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """Return the response that says it."""
        return JSONResponse(self.body(), self.status, self.headers)


STOPPING = "the server is stopping"


def stopping() -> Refusal:
    """Return the refusal of a server that is about to end."""
    return Refusal(503, STOPPING, code="stopping", headers={"Retry-After": "5"})
