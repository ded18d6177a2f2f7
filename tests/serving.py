"""A server of an artifact in a thread of this process, and requests to it without a client's help."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator as PieceGenerator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from socket import socket
from typing import Any

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.artifacts.generator import Generator
from pythia_quant.artifacts.pieces import Piece, Wish
from pythia_quant.serve.model import Model
from pythia_quant.serve.server import Server, bind, open_server


@dataclass(frozen=True)
class Answer:
    """A response: its status, headers by their names in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The events of a stream, which must end as it should."""
        *events, last, empty = self.body.decode().split("\n\n")
        assert (last, empty) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]


@dataclass(frozen=True)
class Running:
    """A server that answers at `url`."""

    server: Server
    url: str
    port: int
    socket: socket

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str = "") -> Answer:
        """Send a request; a body that is no bytes is sent as JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | (headers or {})
        connection.request(method or ("GET" if body is None else "POST"), path, content, sent)
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return answer

    def complete(self, prompt: Any, **settings: Any) -> Answer:
        return self.ask("/v1/completions", {"temperature": 0} | settings | {"prompt": prompt})

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition(" ")[0] == f"pythia_quant_{name}")


class Here(Generator):
    """A model in this process, where the program has one in a process of its own, which needs seconds to begin."""

    @property
    def reused(self) -> int:
        return self.sequence.reused

    def stream(self, ids: list[int], wish: Wish) -> PieceGenerator[Piece]:
        yield from super().stream(ids, wish)

    def restore(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def running(folder: Path, keys: Sequence[str] = (), queue: int = 64, model: Model | None = None) -> Iterator[Running]:
    """Serve an artifact in a thread until the end of the context."""
    ready = threading.Event()
    place = bind("127.0.0.1", 0)
    artifact = open_artifact(folder)
    server = open_server(artifact, model or Here(artifact), place, ["tiny", str(folder)], keys, queue, ready.set)
    port = place.socket.getsockname()[1]
    thread = threading.Thread(target=server.serve_until_stopped)
    thread.start()
    try:
        assert ready.wait(20)
        yield Running(server, f"{place.address}/v1", port, place.socket)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
