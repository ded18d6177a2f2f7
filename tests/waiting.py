"""Waiting for what another process does."""

import time
from collections.abc import Callable


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something is true, and fail when it takes too long."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)
