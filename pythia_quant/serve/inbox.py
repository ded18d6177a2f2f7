"""Events of a job on their way from the engine's thread to the loop that answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

from pythia_quant.serve.engine import Begun, Done, Event, Part
from pythia_quant.serve.refusals import Refusal

_MOST_AT_ONCE = 256
"""A batch has so many events at most, so that other requests get their turn."""


class Inbox:
    """The events of one job. A loop that is behind gets many at once, and is woken once for them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._there = asyncio.Event()  # set, or about to be, while there are events

    def put(self, event: Event) -> None:
        """Append an event; any thread may."""
        with self._lock:
            first = not self._events
            self._events.append(event)
        if first and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._there.set)

    async def batches(self) -> AsyncIterator[list[Begun | Part | Done]]:
        """Yield what has come since the batch before, up to the job's end.

        Raises:
            Refusal: the job failed.
        """
        while True:
            await self._there.wait()
            with self._lock:
                taken, self._events = self._events[:_MOST_AT_ONCE], self._events[_MOST_AT_ONCE:]
                if not self._events:
                    self._there.clear()
            good = [event for event in taken if not isinstance(event, Refusal)]
            if good:
                yield good
            if failed := next((event for event in taken if isinstance(event, Refusal)), None):
                raise failed
            if good and isinstance(good[-1], Done):
                return
