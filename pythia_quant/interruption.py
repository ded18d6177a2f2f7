"""Ctrl-C and other ends from outside where they do no harm: in our own code, and not within a library's."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType

_OURS = str(Path(__file__).parent)
_ASKED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C; SLURM's and Docker's stop; a terminal that was closed."""
interrupted = threading.Event()
"""Set by any of them, for threads: it is only the main one that is interrupted."""
_AGAIN, _PATIENCE = 0.01, 100  # seconds, and how often
_received: list[signal.Signals] = []


def received() -> signal.Signals | None:
    """Return the signal that this process was first asked to end by."""
    return _received[0] if _received else None


def interrupt_own_code() -> None:
    """Let the signals that ask a process to end raise KeyboardInterrupt, so that what was begun is cleared away.

    It is raised as soon as code of this package runs, and within a second in any case. Raised in Python code that a
    native library has called, as it may be at any time, it would be lost, turned into an error that says nothing, or
    end the process on the spot.
    """
    waited = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal waited
        if number in _ASKED:
            _received.append(signal.Signals(number))
        interrupted.set()
        waited += 1
        if waited > _PATIENCE or (frame is not None and frame.f_code.co_filename.startswith(_OURS)):
            # A second Ctrl-C ends the clearing away, too; programs that ask for an end may do so several times.
            for other in _ASKED:
                if other != signal.SIGINT:
                    signal.signal(other, signal.SIG_IGN)
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)

    if hasattr(signal, "setitimer"):  # not on Windows
        signal.signal(signal.SIGALRM, handle)
        for asked in _ASKED:
            # nohup has a closed terminal ignored. Ctrl-C is ignored in what a script starts in the background, where
            # only a program can send it.
            if asked == signal.SIGINT or signal.getsignal(asked) is not signal.SIG_IGN:
                signal.signal(asked, handle)
