"""Handle Ctrl-C, SIGTERM and SIGHUP where they do no harm: in our own code, not within a library's."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from pathlib import Path
from types import FrameType

_PACKAGE = f"{Path(__file__).parent.parent}{os.sep}"
_END_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Sent by Ctrl-C; by SLURM and Docker to stop a program; by a terminal that is closed."""
interrupted = threading.Event()
"""Set by any of these signals, for threads: Python raises only in the main thread."""
_RETRY_SECONDS, _MOST_TRIES = 0.01, 100
_received: list[signal.Signals] = []


def received() -> signal.Signals | None:
    """Return the first signal that asked this process to end, or None."""
    return _received[0] if _received else None


def interrupt_own_code() -> None:
    """Make the signals that ask a process to end raise KeyboardInterrupt, so that our code can clean up.

    The exception is raised as soon as code of this package runs, and within a second in any case. In Python code that a
    native library calls, the exception could be lost, become an error without a reason, or end the process at once.
    """
    tries = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal tries
        if number in _END_SIGNALS:
            _received.append(signal.Signals(number))
        interrupted.set()
        tries += 1
        if tries > _MOST_TRIES or (frame is not None and frame.f_code.co_filename.startswith(_PACKAGE)):
            # Only a second Ctrl-C may end the cleaning up: programs may send the other signals several times.
            for other in _END_SIGNALS:
                if other != signal.SIGINT:
                    signal.signal(other, signal.SIG_IGN)
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, _RETRY_SECONDS)

    if hasattr(signal, "setitimer"):  # not on Windows
        signal.signal(signal.SIGALRM, handle)
        # An alarm that is still set when Python puts the signals' own actions back would end the process.
        atexit.register(signal.signal, signal.SIGALRM, signal.SIG_IGN)
        for number in _END_SIGNALS:
            # nohup makes us ignore SIGHUP: that stays. A shell makes background programs ignore SIGINT: there only a
            # program can send it, and it is handled.
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handle)
