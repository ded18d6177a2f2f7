"""Ctrl-C where it does no harm: in our own code, and not within a library's."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType

_OURS = str(Path(__file__).parent)
interrupted = threading.Event()
"""Set by Ctrl-C, for threads: it is only the main one that is interrupted."""
_AGAIN, _PATIENCE = 0.01, 100  # seconds, and how often


def interrupt_own_code() -> None:
    """Let Ctrl-C raise KeyboardInterrupt as soon as code of this package runs, and within a second in any case.

    Raised in Python code that a native library has called, as it may be at any time, the interruption is lost, turned
    into an error that says nothing, or ends the process on the spot: what was begun would not be cleared away.
    """
    waited = 0

    def handle(_signal: int, frame: FrameType | None) -> None:
        nonlocal waited
        interrupted.set()
        waited += 1
        if waited > _PATIENCE or (frame is not None and frame.f_code.co_filename.startswith(_OURS)):
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)

    if hasattr(signal, "setitimer"):  # not on Windows
        signal.signal(signal.SIGALRM, handle)
        signal.signal(signal.SIGINT, handle)
