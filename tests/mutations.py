"""Damage done to files by a seeded random generator: bytes changed, and data of the right form with nonsense in it.

``PYTHIA_QUANT_MUTATIONS=N`` makes N of each kind instead of what the tests take by default.
"""

from __future__ import annotations

import copy
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pythia_quant.errors import PythiaQuantError

COUNT = int(os.environ.get("PYTHIA_QUANT_MUTATIONS", "0"))
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


def distorted(data: Any, random_: random.Random) -> Any:
    """Return a copy of JSON data with one to three values replaced, keys removed, renamed or swapped."""
    whole = [copy.deepcopy(data)]
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        places = list(_places(whole))
        holder, key = random_.choice(places)
        match random_.randrange(8):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[random_.choice(("", "x", "\x1b", "k" * 300, "é", "__class__"))] = holder.pop(key)
            case 2 if isinstance(holder, list) and holder is not whole:
                del holder[key:]
            case 3 if isinstance(holder, list) and holder is not whole:
                holder.insert(key, copy.deepcopy(holder[key]))
            case 4:
                other, where = random_.choice(places)
                holder[key] = copy.deepcopy(other[where])
            case 5 if type(holder[key]) in (int, float) and abs(holder[key]) < 1e300:
                holder[key] = random_.choice((-holder[key], holder[key] + 1, holder[key] * 10, holder[key] / 3))
            case _:
                holder[key] = copy.deepcopy(random_.choice(NASTY))
    return whole[0]


def as_json(data: Any) -> bytes:
    """Return data as JSON, half surrogate pairs as escapes, integers of any length."""
    return json.dumps(data).encode()


def refused_or_read(read: Callable[[Path], object], path: Path, contents: Iterator[bytes]) -> dict[str, int]:
    """Have every content read; count what was read and refused. Anything but a refusal, or a slow one, is a failure."""
    counts = {"read": 0, "refused": 0}
    for number, content in enumerate(contents):
        path.write_bytes(content)
        started = time.process_time()
        try:
            read(path)
            counts["read"] += 1
        except PythiaQuantError as error:
            if not 0 < len(str(error)) < 8000:  # a mutation may hold a path of 5,000 characters
                raise
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number}: {type(error).__name__}: {error}"[:500], content[:3000]) from error
        seconds = time.process_time() - started
        assert seconds < SLOWEST, (number, seconds, content[:3000])
    return counts


def json_mutations(data: Any, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield mutations of JSON data: three in four with another meaning, the rest damaged as bytes."""
    random_, content = random.Random(seed), as_json(data)
    for number in range(COUNT or count):
        yield damaged(content, random_) if number % 4 == 0 else as_json(distorted(data, random_))


def byte_mutations(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield mutations of a file's bytes."""
    random_ = random.Random(seed)
    for _ in range(COUNT or count):
        yield damaged(content, random_)


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from _places(holder[key])
