"""A site on a plain file server, and where the page's packages are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ASSETS = Path(__file__).parents[1] / ".venv" / "share" / "web"


class _PlainHandler(SimpleHTTPRequestHandler):
    """A file server that sets no header of ours."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        pass


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a site; yield the address of its page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_PlainHandler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/index.html"
    finally:
        server.shutdown()
        server.server_close()
