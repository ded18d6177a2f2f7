"""Damage done to files by a seeded random generator: bytes changed, and data of the right form with nonsense in it.

``PYTHIA_QUANT_MUTATIONS=N`` makes N of each kind instead of 1,000, and as much more or fewer of the slow kinds;
``PYTHIA_QUANT_MUTATIONS_SEED=S`` makes others.
"""

from __future__ import annotations

import copy
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pythia_quant.core.errors import PythiaQuantError

COUNT = int(os.environ.get("PYTHIA_QUANT_MUTATIONS", "1000"))
SEED = os.environ.get("PYTHIA_QUANT_MUTATIONS_SEED", "0")
SLOWEST = 1.0
"""Seconds of processor time that reading a damaged file may take."""

NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 3, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 0.0, -0.0, 0.5, -1.5, 1e-320,
    1e300, 1e308, float("nan"), float("inf"), float("-inf"), "", " ", "0", "1", "-1", "nan", "Infinity", "a/../../b",
    "/etc/passwd", "~", ".", "..", "\0", "a\0b", "\x1b[31m", "\x9b31m", "\u202eabc", "\ud800", "x" * 5000,
    "é" * 200, "=1+1", "CON", "-rf", "[]", [], {}, [[]], [{}], [None], {"": None}, {"a": {}}, [1, "a", None],
    list(range(50)), "2024-01-01",
)  # fmt: skip
"""Values of every JSON type at the edges of what programs expect."""

_BYTES = (b"\0", b"\xff", b"\xed\xa0\x80", b"\n", b'"', b"{", b"}", b"[", b"]", b":", b",", b"\\", b"-", b"1e999",
          b"&a ", b"*a ", b"!!int ", b"!!python/none ", b"<<: ", b"? ", b"| ", b"%", b"'", b"0x", b"0b_", b"1:1",
          b"NaN", b"\t",           b'"\\UFFFFFFFF"', b"\xe2\x80\xae", b"\x1b")  # fmt: skip

T = TypeVar("T")
_Place = tuple[Any, ...]  # the keys and indexes that lead to a value


def generator(seed: int = 0) -> random.Random:
    """Return a generator that gives the same numbers in every run with the same seeds."""
    return random.Random(f"{SEED}/{seed}")


def damaged(content: bytes, random_: random.Random) -> bytes:
    """Return `content` with one to three bytes or snippets changed, inserted, moved or cut away."""
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        place, end = sorted((random_.randrange(len(data) + 1), random_.randrange(len(data) + 1)))
        match random_.randrange(7):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << random_.randrange(8)
            case 1:
                data[place:place] = random_.choice(_BYTES)
            case 2:
                del data[place:]
            case 3:
                del data[place : place + random_.randrange(1, 9)]
            case 4:
                data[place:place] = data[place : min(end, place + 200)]
            case 5:
                data[place : place + 1] = random_.choice(_BYTES)
            case _:
                data[place:place] = random_.choice((b"[", b'{"a":', b"- ", b"'")) * random_.randrange(1, 300)
    return bytes(data)


def distortions(data: Any, count: int, seed: int = 0) -> Iterator[Any]:
    """Yield copies of JSON data with one to three values replaced, keys removed, renamed or swapped.

    What was not changed, they share with `data` and each other.
    """
    random_, whole = generator(seed), [data]
    places = list(_places(whole))
    for _ in range(count):
        changed = whole
        for _ in range(random_.choice((1, 1, 1, 1, 2, 3))):
            changed = _changed(changed, random_.choice(places), places, random_)
        yield changed[0] if changed else None


def _places(holder: Any, above: _Place = ()) -> Iterator[_Place]:
    for key in holder if isinstance(holder, dict) else range(len(holder)):
        yield (*above, key)
        if isinstance(holder[key], dict | list):
            yield from _places(holder[key], (*above, key))


def _changed(holder: Any, place: _Place, places: list[_Place], random_: random.Random) -> Any:
    key, *below = place
    there = key in holder if isinstance(holder, dict) else isinstance(holder, list) and key in range(len(holder))
    if not there:  # an earlier change has taken it away
        return holder
    holder = copy.copy(holder)
    if below:
        holder[key] = _changed(holder[key], tuple(below), places, random_)
        return holder
    value = holder[key]
    match random_.randrange(9):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random_.choice(("", "x", "\x1b", "k" * 300, "é", "__class__"))] = holder.pop(key)
        case 2 if isinstance(holder, list):
            del holder[key:]
        case 3 if isinstance(holder, list):
            holder.insert(key, value)
        case 4 if isinstance(value, dict | list) and value:
            holder[key] = random_.choice(list(value.values() if isinstance(value, dict) else value))
        case 5:
            holder[key] = {str(random_.choice(places)[-1]): value} if isinstance(value, str) else [value]
        case 6 if type(value) in (int, float) and abs(value) < 1e300:
            holder[key] = random_.choice((-value, value + 1, value * 10, value / 3))
        case 7:
            kin = [other for other in NASTY if type(other) is type(value)]
            holder[key] = random_.choice(kin or NASTY)
        case _:
            holder[key] = random_.choice(NASTY)
    return holder


def as_json(data: Any) -> bytes:
    """Return data as JSON, half surrogate pairs as escapes, integers of any length."""
    return json.dumps(data).encode()


def json_mutations(data: Any, count: int = COUNT, seed: int = 0) -> Iterator[bytes]:
    """Yield mutations of JSON data: three in four with another meaning, the rest damaged as bytes."""
    random_, content = generator(seed), as_json(data)
    for number, changed in enumerate(distortions(data, count, seed)):
        yield as_json(changed) if number % 4 else damaged(content, random_)


def byte_mutations(content: bytes, count: int = COUNT, seed: int = 0) -> Iterator[bytes]:
    """Yield mutations of a file's bytes."""
    random_ = generator(seed)
    for _ in range(count):
        yield damaged(content, random_)


def outcomes(read: Callable[[T], object], mutations: Iterator[T]) -> Counter[str]:
    """Have every mutation read; count what was read and refused. Anything else, and a slow one, is a failure.

    One that was slow is read twice more: a collection of garbage or a client's thread may have taken the time.
    """
    counts: Counter[str] = Counter()
    for number, mutation in enumerate(mutations):
        outcome, seconds = outcome_of(read, mutation, number)
        counts[outcome] += 1
        if seconds >= SLOWEST:
            seconds = min(outcome_of(read, mutation, number)[1] for _ in range(2))
        assert seconds < SLOWEST, (number, seconds, repr(mutation)[:3000])
    return counts


def outcome_of(read: Callable[[T], object], mutation: T, number: int) -> tuple[str, float]:
    """Return what the reading of a mutation came to, and its processor time in seconds."""
    started, outcome = time.process_time(), "read"
    try:
        read(mutation)
    except PythiaQuantError as error:
        if not 0 < len(str(error)) < 8000:  # a mutation may hold a path of 5,000 characters
            raise
        outcome = "refused"
    except Exception as error:
        what = f"mutation {number}: {type(error).__name__}: {error}"
        raise AssertionError(what[:500], repr(mutation)[:3000]) from error
    return outcome, time.process_time() - started


def refused_or_read(read: Callable[[Path], object], path: Path, contents: Iterator[bytes]) -> Counter[str]:
    """Have a file of every content read; see :func:`outcomes`."""

    def written(content: bytes) -> object:
        overwrite(path, content)
        return read(path)

    path.touch()
    return outcomes(written, contents)


def overwrite(path: Path, content: bytes) -> None:
    """Write a file in place: one that is emptied first, ext4 flushes to the disk, which takes ten times as long."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
