"""Connections of clients that say nothing, speak no HTTP, or read nothing: closed after a while."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pythia_quant.serve.refusals import Refusal

HEAD_SECONDS = 20.0
"""How long a client may take until the head of its request is there, from its first sign or the connection on."""
SEND_SECONDS = 60.0
"""How long a client may take nothing of an answer before it is given up."""
WATCH_SECONDS = 1.0
"""How often a connection is looked at."""


class Connection(H11Protocol):
    """uvicorn's connection, with limits of time that it does not have.

    uvicorn closes a connection only if it is silent after an answer. One that was never asked anything, or half of
    something, would stay for good, and take a file descriptor that others need.
    """

    _watching: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch."""
        super().connection_made(transport)
        self._unread, self._told = 0, False
        self._asked = self._read = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch."""
        if self._watching:
            self._watching.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        now, unread = self.loop.time(), self.transport.get_write_buffer_size()
        if unread != self._unread or not unread:
            self._read = now
        self._unread = unread
        answered = self.cycle is None or self.cycle.response_complete
        if not answered or self.timeout_keep_alive_task is not None:  # the second is uvicorn's own limit
            self._asked = now
        if now - self._read > SEND_SECONDS:
            self.transport.abort()
            return
        if now - self._asked > HEAD_SECONDS and not self._told:
            self._end_waiting()
        self._watching = self.loop.call_later(WATCH_SECONDS, self._watch)

    def _end_waiting(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(Refusal(408, f"the request took longer than {HEAD_SECONDS:.0f} seconds", code="timeout"))
        else:
            self._told = True
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn says the same of every request
        """Answer what is no HTTP, in the shape of all other errors."""
        self._refuse(Refusal(400, "this is no valid HTTP request", code="invalid_http"))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, unless an answer has begun, and close the connection."""
        self._told = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = refusal.response()
            headers = [*response.raw_headers, (b"connection", b"close")]
            reason = HTTPStatus(response.status_code).phrase.encode()
            for event in (
                h11.Response(status_code=response.status_code, headers=headers, reason=reason),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def be_quiet_about_clients() -> None:
    """Leave out of the log what uvicorn warns of: whatever a client sends, it would be a line."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
