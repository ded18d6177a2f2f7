"""The hub on a port of this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qsl, unquote, urlsplit

from loopback import downloading, lfs, reading, writing
from loopback.exchange import Answer, Refusal, Request, in_json
from loopback.faults import Fault
from loopback.hub import Hub
from loopback.routing import Call

# Xet has no routes: over it nothing could be seen of what a client sends.
ROUTES = (*reading.ROUTES, *writing.ROUTES, *lfs.ROUTES, *downloading.ROUTES)


def answer(hub: Hub, request: Request, raw_path: str, body: bytes) -> Answer:
    """Do what a request asks for."""
    method = "GET" if request.method == "HEAD" else request.method
    for route in ROUTES:
        if (parts := route.match(method, raw_path)) is not None:
            try:
                with hub.lock:
                    return route.answer(Call(hub, request, raw_path, body, parts))
            except Refusal as refusal:
                return refusal.answer
    return Refusal(404, f"This hub has no {request.method} {request.path}", "RouteNotFound").answer


class _Connection(BaseHTTPRequestHandler):
    """A client's connection; closing it without an answer is how the network fails."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for the client's acknowledgement of its headers
    hub: Hub

    def _serve(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path = unquote(url.path)
        fault = hub.next_fault(self.command, path) or Fault("", "")
        announced = int(self.headers.get("content-length", 0))
        length = announced if fault.cut is None else min(announced, fault.cut)
        body = self.rfile.read(length)
        headers = {name.lower(): text for name, text in self.headers.items()}
        request = Request(self.command, path, dict(parse_qsl(url.query)), headers, len(body))
        hub.record(request)
        if fault.stall:
            hub.stopping.wait(fault.stall)
        if fault.before:
            fault.before(hub)
        if len(body) < announced:
            self.close_connection = True
        elif fault.status is not None:
            error = {"error": HTTPStatus(fault.status).phrase}
            self._send(in_json(error | fault.body, fault.status, fault.headers))
        else:
            done = answer(hub, request, url.path, body)
            done = fault.alter(done) if fault.alter else done
            if fault.lose_answer:
                self.close_connection = True
            else:
                self._send(done, None if announced else fault.cut)

    do_HEAD = do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _send(self, answer: Answer, cut: int | None = None) -> None:
        self.send_response(answer.status)
        for name, text in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    """A server that keeps what went wrong in it for the test, and does not mind clients that leave."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), type("Connection", (_Connection,), {"hub": hub}))
        self.hub = hub
        hub.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.hub.crashes.append(error)


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """Run a hub until the block ends; an error in the hub itself ends the test."""
    hub = Hub()
    server = _Server(hub)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.stopping.set()
        server.shutdown()
        server.server_close()
        if hub.crashes:
            raise hub.crashes[0]
