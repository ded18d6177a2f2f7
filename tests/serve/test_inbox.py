"""No event of another thread is lost, doubled or late, however fast they come."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

import pytest

from pythia_quant.artifacts.pieces import Piece
from pythia_quant.serve.engine import Begun, Done, Event, Part
from pythia_quant.serve.inbox import Inbox
from pythia_quant.serve.refusals import Refusal


def received(events: list[Event]) -> list[Event]:
    """Return what a loop gets of events that a thread puts as fast as it can."""

    async def receive() -> list[Event]:
        inbox, got = Inbox(), list[Event]()
        thread = threading.Thread(target=lambda: deque(map(inbox.put, events), maxlen=0))
        thread.start()
        try:
            async with asyncio.timeout(20):
                async for batch in inbox.batches():
                    assert 0 < len(batch) <= 256
                    got += batch
        except Refusal as refusal:
            got.append(refusal)
        thread.join()
        return got

    return asyncio.run(receive())


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 20_000])
def test_all_events_arrive_in_their_order(count: int) -> None:
    events: list[Event] = [Begun(0, 0), *(Part(0, Piece(str(at))) for at in range(count)), Done(count, 0)]
    assert received(events) == events


def test_a_failure_comes_after_what_was_before_it() -> None:
    events: list[Event] = [Begun(0, 0), Part(0, Piece("a")), Refusal(503, "no more")]
    assert received(events) == events
