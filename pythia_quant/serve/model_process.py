"""The process that runs a server's model: ``python -m pythia_quant.serve.model_process FOLDER DESCRIPTOR``.

It ends when the server does, even if that is killed.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from pythia_quant.artifacts.artifact import check_sizes, open_artifact
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.serve.messages import Ended, Failed, Ready, Score, Stop, Stream

if TYPE_CHECKING:
    from pythia_quant.artifacts.generator import Generator

# ruff: noqa: PLC0415 - torch takes seconds to import, and a damaged artifact is refused without it


def serve(folder: Path, server: Connection) -> None:
    """Load an artifact, and do what the server says.

    Raises:
        EOFError: the server has ended.
    """
    try:
        artifact = open_artifact(folder)
        check_sizes(artifact)
        from pythia_quant.artifacts.generator import Generator

        generator = Generator(artifact)
    except PythiaQuantError as error:
        server.send(Failed.of(error))
        return
    server.send(Ready(artifact.manifest.model_dump_json()))
    while True:
        asked = server.recv()
        try:
            if isinstance(asked, Stream):
                _stream(generator, asked, server)
            elif isinstance(asked, Score):
                server.send(Ended(0, tuple(generator.scores(asked.ids, asked.alternatives))))
        except PythiaQuantError as error:
            server.send(Failed.of(error))


def _stream(generator: Generator, asked: Stream, server: Connection) -> None:
    for piece in generator.stream(asked.ids, asked.wish):
        server.send(piece)
        if server.poll() and isinstance(server.recv(), Stop):
            break
    server.send(Ended(generator.sequence.reused if asked.wish.count else 0))


def main() -> None:
    """Serve until the server ends. It decides when: signals that a terminal sends to both do nothing here."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    folder, descriptor = sys.argv[1:]
    with suppress(EOFError, ConnectionError), Connection(int(descriptor)) as server:
        serve(Path(folder), server)


if __name__ == "__main__":
    main()
