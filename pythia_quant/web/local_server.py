"""Serve a site on this machine, with the headers by which a browser lets it use several threads."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pythia_quant.core.errors import ArgumentError

_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Sends files, lists no folders and says nothing."""

    timeout = 30
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".json": "application/json",
    }  # fmt: skip

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: Any) -> None:  # noqa: ARG002 - as in the base class
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base class
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


def open_site_server(port: int) -> ThreadingHTTPServer:
    """Listen on loopback; requests wait until :func:`serve_until_stopped` answers them.

    Args:
        port: the port; 0 takes a free one.

    Raises:
        ArgumentError: the port is taken, or may not be used.
    """
    try:
        return _Server((HOST, port), _Handler)
    except OSError as error:
        why = {
            errno.EADDRINUSE: "another program listens there",
            errno.EACCES: "this user may not listen there",
        }.get(error.errno or 0, os.strerror(error.errno or 0).lower())
        raise ArgumentError(why, where=f"--port {port}", hint="--port 0 takes a free one") from None


def serve_until_stopped(server: ThreadingHTTPServer, folder: Path, ready: Callable[[str], object]) -> None:
    """Answer requests for a site's files until SIGINT or SIGTERM.

    Args:
        server: of :func:`open_site_server`.
        folder: the site.
        ready: told the address of the page.
    """
    server.RequestHandlerClass = partial(_Handler, directory=str(folder))
    stopped = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        ready(f"http://{HOST}:{server.server_address[1]}/")
        stopped.wait()
    finally:
        server.shutdown()
        server.server_close()
        for number, handler in previous.items():
            signal.signal(number, handler)
