"""Listen on a port until a signal ends it, without cutting off what will soon be complete."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

import uvicorn

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.prompts import Prompts
from pythia_quant.core.errors import ArgumentError
from pythia_quant.serve.app import make_app
from pythia_quant.serve.chats import ChatTemplate
from pythia_quant.serve.connection import Connection, be_quiet_about_clients
from pythia_quant.serve.engine import Engine
from pythia_quant.serve.guard import is_loopback
from pythia_quant.serve.metrics import Metrics
from pythia_quant.serve.model import Model
from pythia_quant.serve.service import Service

GRACE_SECONDS = 10.0
"""How long running requests may go on after a signal. Then streams end with an error, which clients see."""
_LAST_SECONDS = 5
_IDLE_SECONDS = 30
_WAITING_CONNECTIONS = 2048
_MOST_FILES = 65_536


@dataclass(frozen=True)
class Place:
    """Where a server listens.

    Attributes:
        socket: the bound socket.
        address: for people and clients, such as ``http://127.0.0.1:8000``.
        local: whether only programs of this machine reach it.
    """

    socket: socket.socket
    address: str
    local: bool


def bind(host: str, port: int) -> Place:
    """Take a port; connections wait until :func:`open_server`'s server answers.

    Raises:
        ArgumentError: the port is taken or may not be used, or there is no such host here.
    """
    where = f"--host {host} --port {port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ArgumentError("there is no such host", where=where, hint="127.0.0.1 is this machine") from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(_WAITING_CONNECTIONS)  # of two programs that were bound, the second would fail only here
    except OSError as error:
        listening.close()
        raise ArgumentError(
            _reason(error), where=where, hint="choose another port: --port 0 takes a free one"
        ) from None
    shown = f"[{host.strip('[]')}]" if family == socket.AF_INET6 else host
    return Place(listening, f"http://{shown}:{listening.getsockname()[1]}", is_loopback(str(address[0])))


def _reason(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "another program listens there",
        errno.EACCES: "this user may not listen there",
        errno.EADDRNOTAVAIL: "this machine has no such address",
    }.get(error.errno or 0, os.strerror(error.errno or 0).lower())


class Server(uvicorn.Server):
    """uvicorn, which ends after a signal as a program that has done its work, and cuts off what takes too long."""

    def __init__(self, config: uvicorn.Config, place: Place, engine: Engine, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._place, self._engine, self._ready = place, engine, ready

    def serve_until_stopped(self) -> None:
        """Answer requests until SIGINT or SIGTERM, or until `should_exit` is set."""
        try:
            self.run(sockets=[self._place.socket])
        finally:
            self._engine.stop()
            self._engine.join(_LAST_SECONDS)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as in uvicorn
        # uvicorn would raise the signal again at its end, which is for programs that do more than serve.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._engine.stop)
        await super().shutdown(sockets)


def open_server(
    artifact: Artifact,
    model: Model,
    place: Place,
    names: Sequence[str],
    keys: Sequence[str],
    queue: int,
    ready: Callable[[], None],
) -> Server:
    """Make a server of an artifact.

    Args:
        artifact: the artifact.
        model: its model.
        place: where to listen.
        names: what clients may call the model; the first one is told to them.
        keys: those that clients must have; none if everybody may ask.
        queue: how many requests may wait.
        ready: called when the server answers.

    Raises:
        ArtifactError: the artifact is damaged.
    """
    _allow_files()
    metrics = Metrics()
    template, engine = ChatTemplate(artifact.folder), Engine(model, queue, metrics)
    service = Service(Prompts(artifact), engine, template, names, metrics)
    app = make_app(service, engine, metrics, keys, local=place.local)
    be_quiet_about_clients()
    config = uvicorn.Config(
        app,
        http=Connection,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        backlog=_WAITING_CONNECTIONS,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=int(GRACE_SECONDS) + _LAST_SECONDS,
    )
    return Server(config, place, engine, ready)


def _allow_files() -> None:
    """Let this process have as many connections as its user may: a shell's usual limit is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if most == resource.RLIM_INFINITY else min(most, _MOST_FILES)
    with contextlib.suppress(ValueError, OSError):
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
