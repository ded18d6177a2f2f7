"""A hub on loopback: serves files of model and dataset repositories the way the real client asks for them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote


class Hub:
    """Repositories by name, each with revisions that are folders. `damage` flips a byte of any file so named."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Path]] = {}
        self.damage: set[str] = set()
        self.requests: list[str] = []
        self.authorizations: set[str | None] = set()
        self.gated: set[str] = set()
        self.endpoint = ""

    def commit(self, repo: str, revision: str) -> str:
        return hashlib.sha1(f"{repo}@{revision}".encode(), usedforsecurity=False).hexdigest()

    def find(self, repo: str, revision: str) -> tuple[str, Path] | None:
        for name, folder in self.repos[repo].items():
            if revision in (name, self.commit(repo, name)):
                return self.commit(repo, name), folder
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        hub, path = self.hub, unquote(self.path)
        hub.requests.append(f"{self.command} {path}")
        hub.authorizations.add(self.headers.get("authorization"))
        prefix, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if prefix not in hub.repos:
            return self._refuse(404, "RepoNotFound")
        if prefix in hub.gated:
            return self._refuse(403, "GatedRepo")
        found = hub.find(prefix, revision)
        if found is None:
            return self._refuse(404, "RevisionNotFound")
        commit, folder = found
        if not (folder / name).is_file():
            return self._refuse(404, "EntryNotFound", commit)
        content = (folder / name).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        if name in hub.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _refuse(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """Run a hub until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def client_environment(hub: Hub, home: Path, **extra: str) -> dict[str, str]:
    """Return the environment of a child process whose huggingface_hub talks to `hub` only."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    return kept | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_secretsecretsecret",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        **extra,
    }
