"""Read the header of a GGUF file that anybody may have written: its keys, and where its tensors are.

The layout is that of the specification (docs/gguf.md of ggml). Nothing is believed: every count and length is compared
with what is left of the file before anything is read, so that no header makes this program take memory or time. The
package ``gguf``, which writes our files, maps a file and trusts it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pythia_quant.core.errors import ArtifactError
from pythia_quant.quantizers.ggml import TYPES

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_BLOCKS = {kind.code: (name, kind.block, kind.size) for name, kind in TYPES.items()} | {
    10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110), 16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50), 20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136), 29: ("iq1_m", 256, 56), 34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66), 39: ("mxfp4", 32, 17),
}  # fmt: skip
"""The name, weights and bytes of a block of each type, by ggml's number: those that we unpack, and others (ggml.c)."""
_MOST_DIMENSIONS = 4
_LONGEST_NAME = 63  # bytes; ggml has room for 64 with the end of the string
_MOST_KEYS, _MOST_TENSORS = 10_000, 100_000


class TensorPlace(NamedTuple):
    """Where a tensor is, and as what.

    Attributes:
        kind: its ggml type, by the name in recipes; also one that no recipe has.
        shape: its shape in the order of torch, the last dimension contiguous.
        offset: the byte of the file at which it begins.
        size: its bytes.
    """

    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int


class Header(NamedTuple):
    """The header of a GGUF file.

    Attributes:
        values: each value by its key; arrays are lists.
        tensors: the place of each tensor by its name.
    """

    values: dict[str, Any]
    tensors: dict[str, TensorPlace]


def read_header(path: Path) -> Header:
    """Read a file's header, and check that its tensors lie within the file and beside each other.

    Raises:
        ArtifactError: the file is no GGUF file of version 2 or 3 in little-endian order, or its header is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        return _Parser(path, file, size).header()


class _Parser:
    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size, self._at = path, file, size, 0

    def header(self) -> Header:
        magic, version = self._bytes(4, "its magic"), self._number("I")
        if magic != b"GGUF" or version not in (2, 3):
            raise self._error(f"begins with {magic!r} and version {version:.0f}, and is no GGUF file of version 2 or 3")
        tensors, keys = self._count(_MOST_TENSORS, "tensors"), self._count(_MOST_KEYS, "keys")
        values: dict[str, Any] = {}
        for _ in range(keys):
            key = self._string("a key", 65_535)
            if key in values:
                raise self._error(f"has the key {key!r:.100} twice")
            values[key] = self._value(self._number("I"), key)
        return Header(values, self._tensors(tensors, self._alignment(values)))

    def _alignment(self, values: dict[str, Any]) -> int:
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 2**20 or alignment & (alignment - 1):
            raise self._error(f"general.alignment is {alignment!r:.40}; a power of two from 8 on is needed")
        return alignment

    def _tensors(self, count: int, alignment: int) -> dict[str, TensorPlace]:
        infos = [self._info() for _ in range(count)]
        begin = _padded(self._at, alignment)
        tensors: dict[str, TensorPlace] = {}
        for name, code, shape, offset in infos:
            kind, block, size = _BLOCKS[code]
            if shape[-1] % block:
                raise self._error(f"{name!r} has rows of {shape[-1]} values; {kind} has blocks of {block}")
            place = TensorPlace(kind, shape, begin + offset, math.prod(shape) // block * size)
            if name in tensors:
                raise self._error(f"has the tensor {name!r} twice")
            if offset % alignment or place.offset + place.size > self._size:
                raise self._error(f"{name!r} does not lie within the file's {self._size:,} bytes, or is not aligned")
            tensors[name] = place
        placed = sorted(tensors.items(), key=lambda entry: entry[1].offset)
        for (name, place), (other, next_place) in pairwise(placed):
            if place.offset + place.size > next_place.offset:
                raise self._error(f"{name!r} and {other!r} overlap")
        return tensors

    def _info(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string("the name of a tensor", _LONGEST_NAME)
        dimensions = self._number("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self._error(f"{name!r} has {dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        code, offset = self._number("I"), self._number("Q")
        if code not in _BLOCKS:
            raise self._error(f"{name!r} has the type {code}, which this program does not know")
        if not all(1 <= length <= 2**40 for length in shape) or math.prod(shape) > 2**44 or offset > self._size:
            raise self._error(f"{name!r} has the shape {list(shape)!s:.100}, at {offset:,}")
        return name, code, shape, offset

    def _value(self, kind: int, key: str) -> Any:
        if kind != _ARRAY:
            return self._scalar(kind, key)()
        inner, count = self._number("I"), self._number("Q")
        width = {_BOOL: 1, _STRING: 8}.get(inner) or struct.calcsize(_NUMBERS.get(inner, "B"))
        if count * width > self._size - self._at:
            raise self._error(f"{key!r:.100} has {count:,} values, which is more than the file has")
        if inner in _NUMBERS:
            return list(struct.unpack(f"<{count}{_NUMBERS[inner]}", self._bytes(count * width, key)))
        read = self._scalar(inner, key)
        return [read() for _ in range(count)]

    def _scalar(self, kind: int, key: str) -> Callable[[], Any]:
        if kind in _NUMBERS:
            return lambda: self._number(_NUMBERS[kind])
        if kind == _BOOL:
            return lambda: self._bytes(1, key) != b"\0"
        if kind == _STRING:
            return lambda: self._string(key, self._size)
        raise self._error(f"{key!r:.100} is of the kind {kind}, which no value has, or an array of arrays")

    def _count(self, most: int, what: str) -> int:
        count = self._number("Q")
        if count > most:
            raise self._error(f"says that it has {count:,} {what}")
        return int(count)

    def _string(self, what: str, longest: int) -> str:
        length = self._number("Q")
        if length > longest:
            raise self._error(f"{what:.100} has {length:,} bytes")
        try:
            return self._bytes(length, what).decode()
        except UnicodeDecodeError as error:
            raise self._error(f"{what:.100} is no UTF-8") from error

    def _number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self._bytes(struct.calcsize(kind), "a number"))[0]

    def _bytes(self, count: int, what: str) -> bytes:
        if count > self._size - self._at:
            raise self._error(f"ends within {what:.100}")
        self._at += count
        found = self._file.read(count)
        if len(found) != count:
            raise self._error("was cut short while it was read")
        return found

    def _error(self, what: str) -> ArtifactError:
        return ArtifactError(
            what, where=str(self._path), hint="it is no GGUF file, or damaged: download or make it again"
        )


def _padded(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def read_rows(path: Path, place: TensorPlace, rows_at_once: int) -> Iterator[bytes]:
    """Yield a tensor's bytes, some rows at a time.

    Raises:
        ArtifactError: the file was cut short in the meantime.
    """
    row = place.size // math.prod(place.shape[:-1])
    with path.open("rb") as file:
        file.seek(place.offset)
        left = place.size
        while left:
            piece = file.read(min(left, row * rows_at_once))
            if not piece or len(piece) % row:
                raise ArtifactError("is cut short", where=str(path), hint="download or make it again")
            left -= len(piece)
            yield piece
