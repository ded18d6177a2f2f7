"""Bodies in, events out: within limits of size and time, and only as long as the client is there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response

from pythia_quant.serve.refusals import Refusal

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 1_000_000
"""The longest body that is read: hundreds of times the longest prompt of a Pythia."""
_MOST_DISCARDED = 64_000_000
"""So much of a body that is too long is read, and thrown away: a client that still sends would not see the answer."""
BODY_SECONDS = 20.0
"""How long a client may take to send its body."""

T = TypeVar("T")


class ClientGone(Exception):  # noqa: N818 - nobody is left who could be told of an error
    """The client has closed the connection."""


async def read_body(request: Request) -> bytes:
    """Return a request's body, which must be declared as JSON: a page of another site cannot send such a request.

    Raises:
        ClientGone: the client closed the connection.
        Refusal: it is not declared as JSON, too long, or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        body = await asyncio.wait_for(_collect(request), BODY_SECONDS)
    except TimeoutError:
        raise Refusal(408, f"the body took longer than {BODY_SECONDS:.0f} seconds", code="timeout") from None
    if kind != "application/json":
        raise Refusal(415, "send JSON, with the header Content-Type: application/json", code="unsupported_media_type")
    return body


async def _collect(request: Request) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size <= MOST_BYTES:
            parts.append(part)
        else:
            parts.clear()
        if size > _MOST_DISCARDED:
            break
    if size > MOST_BYTES:
        raise Refusal(413, f"the body has more than {MOST_BYTES:,} bytes", code="body_too_large")
    return b"".join(parts)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns. If the client goes away first, cancel it.

    Raises:
        ClientGone: the client closed the connection.
    """
    working, gone = asyncio.create_task(work), asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


def event(data: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


LAST = b"data: [DONE]\n\n"


class EventStream(Response):
    """A response of server-sent events, given up when the client goes away.

    Args:
        events: the events.
        ended: called at the end, whatever it is; True says that the client went away.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[bool], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._events, self._ended = events, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as in ASGI
        gone = True
        try:
            await while_there(receive, self._send(send))
            gone = False
        except (ClientGone, OSError):
            pass  # whoever asked is not there
        finally:
            self._ended(gone)

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        async for part in self._events:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
