"""A header that lies costs no memory, no time and no process."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from gguf_models import write_gguf
from tiny import TINY, random_weights

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.gguf.header import read_header

MANY = 2**64 - 1


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(tensors: int = 0, keys: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE = {
    "nothing": (b"", "ends within"),
    "another magic": (b"GGML" + bytes(40), "no GGUF file"),
    "another byte order": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "no GGUF file"),
    "an old version": (header(version=1), "no GGUF file"),
    "many tensors": (header(tensors=MANY), "tensors"),
    "many keys": (header(keys=MANY), "keys"),
    "a long key": (header(keys=1, rest=struct.pack("<Q", MANY)), "bytes"),
    "a long text": (header(keys=1, rest=text(b"k") + struct.pack("<IQ", 8, MANY)), "bytes"),
    "a long array": (header(keys=1, rest=text(b"k") + struct.pack("<IIQ", 9, 4, MANY)), "more than the file has"),
    "a long array of texts": (header(keys=1, rest=text(b"k") + struct.pack("<IIQ", 9, 8, MANY)), "more than the file"),
    "an array of arrays": (header(keys=1, rest=text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(99)), "array of arr"),
    "an unknown kind": (header(keys=1, rest=text(b"k") + struct.pack("<I", 77)), "kind 77"),
    "a key twice": (header(keys=2, rest=(text(b"k") + struct.pack("<IB", 0, 1)) * 2), "twice"),
    "no UTF-8": (header(keys=1, rest=text(b"\xff") + bytes(9)), "UTF-8"),
    "an odd alignment": (
        header(keys=1, rest=text(b"general.alignment") + struct.pack("<II", 4, 3)), "general.alignment",
    ),
    "many dimensions": (header(tensors=1, rest=text(b"t") + struct.pack("<I", 2**31)), "dimensions"),
    "a huge shape": (header(tensors=1, rest=tensor(b"t", (2**40, 2**40), 0, 0)), "shape"),
    "an empty shape": (header(tensors=1, rest=tensor(b"t", (0,), 0, 0)), "shape"),
    "an unknown type": (header(tensors=1, rest=tensor(b"t", (32,), 99, 0) + bytes(999)), "type 99"),
    "half a block": (header(tensors=1, rest=tensor(b"t", (16,), 2, 0) + bytes(999)), "blocks of 32"),
    "beyond the end": (header(tensors=1, rest=tensor(b"t", (32,), 0, 0)), "does not lie within"),
    "overlapping": (
        header(tensors=2, rest=tensor(b"t", (32,), 0, 0) + tensor(b"u", (32,), 0, 32) + bytes(999)), "overlap",
    ),
    "the same tensor twice": (header(tensors=2, rest=tensor(b"t", (8,), 0, 0) * 2 + bytes(999)), "twice"),
    "a long name": (header(tensors=1, rest=tensor(b"t" * 64, (8,), 0, 0) + bytes(999)), "64 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_header_that_lies_is_refused_by_name(tmp_path: Path, fault: str) -> None:
    content, message = HOSTILE[fault]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        read_header(path)


def test_bytes_changed_at_random_are_refused_or_read_and_nothing_else(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", TINY, random_weights(TINY))
    content, choose = path.read_bytes(), random.Random(1)
    end = read_header(path).tensors["token_embd.weight"].offset
    read = 0
    for _ in range(300):
        changed = bytearray(content[: choose.choice((len(content), choose.randrange(end)))])
        for _ in range(choose.randint(1, 3)):
            if changed:
                changed[choose.randrange(min(end, len(changed)))] = choose.choice((0, 255, choose.randrange(256)))
        path.write_bytes(changed)
        try:
            read_header(path)
            read += 1
        except ArtifactError:
            pass
    assert 0 < read < 300
