"""The model of a server, in a process of its own, which may end without ending the server.

Weights are mapped files. If one of them is cut off or written over in its place, the system ends the program that reads
them, by SIGBUS.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.pieces import Piece, TokenScore, Wish
from pythia_quant.core.errors import ArtifactError, PythiaQuantError
from pythia_quant.core.text import printable
from pythia_quant.serve.messages import Ended, Failed, Ready, Score, Stop, Stream
from pythia_quant.serve.refusals import Refusal, stopping

RETRY_SECONDS = 10.0
"""How long after a model could not be loaded it is tried again."""
_LOG = logging.getLogger(__name__)
_MOST_SECONDS = 10.0


class Model(Protocol):
    """A model that continues prompts, one after the other. Only one thread may use it."""

    @property
    def reused(self) -> int:
        """How many tokens of the last prompt were not computed again."""
        ...

    def restore(self) -> None:
        """Load the model again, if it was lost.

        Raises:
            Refusal: it cannot be loaded now.
        """
        ...

    def stream(self, ids: list[int], wish: Wish) -> Generator[Piece]:
        """Yield a continuation, as :meth:`~pythia_quant.artifacts.generator.Generator.stream`.

        Raises:
            PythiaQuantError: as there.
            Refusal: the model was lost.
        """
        ...

    def scores(self, ids: list[int], alternatives: int) -> list[TokenScore]:
        """Return the scores of a text, as :meth:`~pythia_quant.artifacts.generator.Generator.scores`.

        Raises:
            PythiaQuantError: as there.
            Refusal: the model was lost.
        """
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class ModelProcess:
    """A model in a process of its own, which is begun again when it has ended; see :class:`Model`.

    Args:
        artifact: the artifact.

    Raises:
        ArtifactError: the artifact is damaged, or its runtime is not installed.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._folder, self._manifest = artifact.folder, artifact.manifest.model_dump_json()
        self._child: subprocess.Popen[bytes] | None = None
        self._refusal: Refusal | None = None
        self._again = 0.0
        self._closed = False
        self.reused = 0
        self._start()

    def restore(self) -> None:
        """Load the model again, if its process has ended."""
        if self._child and self._child.poll() is None and not self._refusal:
            return
        if self._refusal and time.monotonic() < self._again:
            raise self._refusal
        try:
            self._start()
            self._refusal = None
        except PythiaQuantError as error:
            what = f"the model cannot be loaded again: {error.what}"
            headers = {"Retry-After": f"{RETRY_SECONDS:.0f}"}
            if not self._refusal:
                _LOG.error("%s", printable(what))
            self._refusal = Refusal(503, what, code="model_unavailable", headers=headers)
            self._again = time.monotonic() + RETRY_SECONDS
            raise self._refusal from error

    def stream(self, ids: list[int], wish: Wish) -> Generator[Piece]:
        """Yield a continuation in pieces."""
        self._send(Stream(ids, wish))
        said: Any = None
        try:
            while not isinstance(said := self._receive(), Ended):
                yield said
            self.reused = said.reused
        except GeneratorExit:
            self._send(Stop())
            while not isinstance(self._receive(), Ended):
                pass
            raise

    def scores(self, ids: list[int], alternatives: int) -> list[TokenScore]:
        """Return the tokens of a text with their log-probabilities."""
        self._send(Score(ids, alternatives))
        return list(self._receive().scores)

    def close(self) -> None:
        """End the process for good; any thread may."""
        self._closed = True
        self._end()

    def _start(self) -> None:
        self._end()
        ours, theirs = socket.socketpair()
        self._server = Connection(ours.detach())
        with theirs:
            # -P, so that no module of the current folder, which may be a downloaded one, is imported.
            command = [sys.executable, "-P", "-m", "pythia_quant.serve.model_process", str(self._folder)]
            self._child = subprocess.Popen(
                [*command, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2
            )
        try:
            said = self._server.recv()
            if isinstance(said, Failed):
                raise said.error()
            if not isinstance(said, Ready) or said.manifest != self._manifest:
                what = "another artifact was put in its place: end the server, and begin it again"
                raise ArtifactError(what, where=str(self._folder))
        except (EOFError, OSError):
            raise ArtifactError(self._cause(), where=str(self._folder), hint="convert or download it again") from None
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        if self._child:
            self._child.kill()
            self._child.wait()
            self._server.close()

    def _send(self, message: Stream | Score | Stop) -> None:
        with suppress(OSError):  # it has ended: what is received says so
            self._server.send(message)

    def _receive(self) -> Any:
        try:
            said = self._server.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if isinstance(said, Failed):
            raise said.error()
        return said

    def _lost(self) -> Refusal:
        if self._closed:
            return stopping()
        cause = self._cause()
        _LOG.error("%s; the model is loaded again", cause)
        headers = {"Retry-After": f"{RETRY_SECONDS:.0f}"}
        return Refusal(503, f"{cause}; ask again", code="model_lost", headers=headers)

    def _cause(self) -> str:
        """Return how the process has ended."""
        status = self._child.wait(_MOST_SECONDS) if self._child else 0
        name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
        known = {
            "SIGBUS": "a file of the artifact was cut off or written over while the model ran",
            "SIGKILL": "the process that runs the model was killed, most likely for want of memory",
        }
        return known.get(name, f"the process that runs the model ended by {name}")
