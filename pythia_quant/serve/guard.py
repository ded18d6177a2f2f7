"""Who may ask: keys, and the names that a server on loopback is called by."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from pythia_quant.core.errors import ArgumentError, storing
from pythia_quant.serve.refusals import Refusal
from pythia_quant.serve.transport import App, Receive, Scope, Send

OPEN = ("/health",)
"""The paths that need no key."""
_MOST_BYTES = 100_000
_LEAST_LENGTH = 16


def read_keys(path: Path) -> list[str]:
    """Return the keys of a file: one in each line; empty lines and those that begin with # are none.

    Raises:
        ArgumentError: it holds no key, or one that cannot be one. The message does not show it.
        StorageError: it cannot be read.
    """
    where = f"--api-key-file {path}"
    with storing(path), path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ArgumentError(f"has more than {_MOST_BYTES:,} bytes", where=where, hint="give a file with a key a line")
    lines = [(at, line.strip()) for at, line in enumerate(content.splitlines(), 1)]
    keys = [(at, line) for at, line in lines if line and not line.startswith(b"#")]
    if not keys:
        raise ArgumentError("holds no key", where=where, hint="write one: openssl rand -hex 32")
    for at, key in keys:
        if len(key) < _LEAST_LENGTH or not all(33 <= sign < 127 for sign in key):
            what = f"line {at}: a key has at least {_LEAST_LENGTH} signs of ASCII, and no blanks"
            raise ArgumentError(what, where=where, hint="write one: openssl rand -hex 32")
    return [key.decode() for _, key in keys]


def is_loopback(host: str) -> bool:
    """Say whether only programs of this machine reach a host."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """An ASGI application that lets requests through to another one.

    Args:
        app: the other one.
        keys: those that are asked for; none if everybody may ask.
        local: whether the server is on loopback. Without keys, requests must name it so: a page on the internet could
            otherwise have its own name resolve to this machine, and ask from within the user's browser.
    """

    def __init__(self, app: App, keys: Sequence[str], *, local: bool) -> None:
        self._app, self._local = app, local
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the other application answer."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            await refusal.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._digests:
            host = headers.get(b"host", b"localhost").decode("latin-1")
            name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
            if self._local and not is_loopback(name):
                return Refusal(403, "this server answers to localhost and 127.0.0.1 only", code="wrong_host")
            return None
        if scope["path"] in OPEN or self._allowed(headers.get(b"authorization", b"")):
            return None
        what = "send a key of this server: Authorization: Bearer KEY"
        return Refusal(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _allowed(self, header: bytes) -> bool:
        scheme, _, key = header.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        # All keys are compared, and digests of equal length: the time says nothing of a key.
        known = [hmac.compare_digest(digest, one) for one in self._digests]
        return any(known) and scheme.lower() == b"bearer"
