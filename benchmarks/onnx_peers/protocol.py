"""What the drivers of all peers share: their commands and the timing. It uses the standard library only.

A driver is run by the peer's own interpreter:

    peer_NAME.py convert SOURCE OUT
    peer_NAME.py measure MODEL --threads 2              prints one line of JSON
    peer_NAME.py logits MODEL IDS SCRATCH --threads 2   answers each window's number on stdin with a file of logits
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

sys.path.append(str(Path(__file__).parents[1]))  # peers/ is shared with other benchmarks

from peers.process import forget_peak, keep_stdout, memory

PREFILL_TOKENS, PROMPT_TOKENS, DECODE_TOKENS = 512, 128, 64
WARM_UP = 2
PREFILL_SAMPLES = 5
CAPACITY = 576
"""How many positions a runtime with a fixed cache must have room for."""

_VOCABULARY = 50_000  # every Pythia size has more tokens than that


class Model(Protocol):
    """A loaded model, batch size 1.

    Attributes:
        notes: what computes it, and what it cannot do that the others can.
    """

    notes: str

    def prefill(self, ids: list[int], capacity: int) -> int:
        """Start over with a prompt and return the most likely next token.

        Args:
            ids: the prompt.
            capacity: the most tokens, prompt included, that follow before the next prefill.
        """
        ...

    def step(self, token: int) -> int:
        """Feed one more token and return the most likely next one."""
        ...

    def logits(self, ids: list[int]) -> Any:
        """Return a numpy array, fp32 [tokens, vocabulary], of all positions."""
        ...


class AllPositions(ABC):
    """A model whose head computes every position of its input, and whose cache grows by itself."""

    def prefill(self, ids: list[int], capacity: int) -> int:
        """Start over with a prompt; `capacity` has no meaning here."""
        del capacity
        self.start()
        return int(self.feed(ids)[-1].argmax())

    def step(self, token: int) -> int:
        """Feed one more token."""
        return int(self.feed([token])[-1].argmax())

    def logits(self, ids: list[int]) -> Any:
        """Start over and return the logits of all positions."""
        self.start()
        return self.feed(ids)

    @abstractmethod
    def start(self) -> None:
        """Forget what was fed."""

    @abstractmethod
    def feed(self, ids: list[int]) -> Any:
        """Append tokens and return their logits, numpy fp32 [tokens, vocabulary]."""


Convert = Callable[[Path, Path], None]
Open = Callable[[Path, int], Model]


def main(convert: Convert, prepare: Callable[[], Open]) -> None:
    """Run one command of a driver.

    Args:
        convert: makes the peer's model from a checkpoint; the output folder exists and is empty.
        prepare: imports the peer's library, which is not part of loading a model, and returns what opens one.
    """
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("convert")
    command.add_argument("source", type=Path)
    command.add_argument("out", type=Path)
    for name in ("measure", "logits"):
        command = commands.add_parser(name)
        command.add_argument("model", type=Path)
        command.add_argument("--threads", type=int, default=2)
        if name == "logits":
            command.add_argument("ids", type=Path, help="JSON: windows of token ids")
            command.add_argument("scratch", type=Path, help="file that holds one window's logits at a time")
    given = parser.parse_args()
    answers = keep_stdout()
    if given.command == "convert":
        convert(given.source, given.out)
    elif given.command == "measure":
        print(json.dumps(measure(prepare(), given.model, given.threads)), file=answers, flush=True)
    else:
        model = prepare()(given.model, given.threads)
        windows = json.loads(given.ids.read_text())
        print(model.notes, file=answers, flush=True)
        for line in sys.stdin:
            model.logits(windows[int(line)]).tofile(given.scratch)
            print(line.strip(), file=answers, flush=True)


def token_ids(count: int) -> list[int]:
    """Return random but fixed ids, without 0, which ends a text."""
    return random.Random(0).choices(range(1, _VOCABULARY), k=count)


def measure(opener: Open, folder: Path, threads: int) -> dict[str, Any]:
    """Load a model and time it; return every sample."""
    forget_peak()
    before = memory()
    started = time.perf_counter()
    model = opener(folder, threads)
    load_seconds = time.perf_counter() - started
    loaded = memory()

    others = _Others()
    long = token_ids(PREFILL_TOKENS)
    prefill_seconds = []
    for _ in range(WARM_UP + PREFILL_SAMPLES):
        started = time.perf_counter()
        model.prefill(long, len(long))
        prefill_seconds.append(time.perf_counter() - started)

    short = token_ids(PROMPT_TOKENS)
    count = WARM_UP + DECODE_TOKENS
    decode_seconds = []
    tokens = [model.prefill(short, len(short) + count)]
    for _ in range(count):
        started = time.perf_counter()
        tokens.append(model.step(tokens[-1]))
        decode_seconds.append(time.perf_counter() - started)
    others_share = others.share()
    after = memory()
    return {
        "notes": model.notes,
        "threads": threads,
        "load_seconds": load_seconds,
        "prefill_seconds": prefill_seconds[WARM_UP:],
        "decode_seconds": decode_seconds[WARM_UP:],
        "tokens": tokens,
        "held_bytes": before["VmRSS"],
        "loaded_bytes": loaded["VmRSS"],
        "peak_bytes": after["VmHWM"],
        "anonymous_bytes": after["RssAnon"],
        "file_bytes": after["RssFile"],
        "others": others_share,
    }


class _Others:
    """Counts the processor time that other processes take from now on, because it makes samples slower."""

    def __init__(self) -> None:
        self._started, self._before = time.perf_counter(), self._seconds()

    def share(self) -> float:
        """Return the share of all processors' time that others took, 0 to 1; in a second it is exact to about 0.01."""
        available = (time.perf_counter() - self._started) * (os.cpu_count() or 1)
        return max(0.0, (self._seconds() - self._before) / available)

    @staticmethod
    def _seconds() -> float:
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
        own = os.times()
        return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - own.user - own.system
