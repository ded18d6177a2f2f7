"""Damages a file of an artifact in ways that a disk, an editor or an attacker might."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import mutations
from onnx import ModelProto

COUNT = 3 * mutations.COUNT // 100
"""Damages of each kind of file, which take longer to read than those of other tests."""

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 64, 2**31, 2**63, 2**64, 10**400, 1e308, -1e308, float("nan"), float("inf"), 0.5,
    "", "x", "float16", "../../x", "/etc/passwd", "\x1b[31m", "\u202e", "\ud800", "9" * 5000, [], {}, [[]], [None],
    {"x": {}},
]  # fmt: skip
"""In place of any value of a JSON file."""


def damage_json(content: bytes, random: Random) -> bytes:
    """Change, remove, add or swap a few values somewhere in JSON; or damage its bytes."""
    if random.random() < 0.1:
        return damage_bytes(content, random)
    if random.random() < 0.03:
        return random.choice([b"", b"[]", b"5", b"null", b"[" * 50_000, b'{"a":' * 50_000, b"\xff\xfe", b"\x00"])
    data = deepcopy(json.loads(content))
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        containers = [data, *_containers(data)]
        holder = random.choice(containers)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            continue
        key, action = random.choice(keys), random.random()
        if action < 0.15:
            del holder[key]
        elif action < 0.25 and isinstance(holder, dict):
            holder[random.choice(["x", "auto_map", "../x", "CON", ""])] = random.choice(VALUES)
        elif action < 0.35:
            holder[key] = deepcopy(random.choice(containers[1:] or [None]))
        elif action < 0.45:
            holder[key] = [holder[key]]
        elif action < 0.55 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * random.choice([-1, 2, 10, 0.5, 1000])
        else:
            holder[key] = random.choice(VALUES)
    return json.dumps(data).encode("utf-8", "surrogatepass")


def _containers(data: Any) -> list[Any]:
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else []
    found = [value for value in inner if isinstance(value, dict | list) and value]
    return found + [deeper for value in found for deeper in _containers(value)]


def damage_bytes(content: bytes, random: Random) -> bytes:
    """Flip, cut out, insert or repeat some bytes."""
    data = bytearray(content)
    for _ in range(random.choice([1, 1, 3, 20])):
        at = random.randrange(len(data) + 1)
        match random.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 1:
                del data[at : at + random.choice([1, 4, 100])]
            case 2:
                data[at:at] = random.randbytes(random.choice([1, 4, 100]))
            case 3:
                data[at:at] = data[max(0, at - 50) : at]
            case _:
                data[at : at + 8] = b"\xff" * 8
    return bytes(data[: random.randrange(len(data) + 1)] if random.random() < 0.1 else data)


def damage_safetensors(content: bytes, random: Random) -> bytes:
    """Damage the header of safetensors, or the values of one of the small tensors, which say how others are read."""
    size = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + size], content[8 + size :]
    kind = random.random()
    if kind < 0.1:
        length = random.choice([0, 1, size - 1, size + 1, len(content), 2**31, 2**63, 2**64 - 1])
        return length.to_bytes(8, "little") + content[8:]
    if kind < 0.7:
        damaged = damage_json(header, random)
        return len(damaged).to_bytes(8, "little") + damaged + rest
    small = {
        name: entry["data_offsets"]
        for name, entry in json.loads(header).items()
        if any(part in name for part in ("quant_state", "nested", "quant_map", "g_idx", "scales", "qzeros", "absmax"))
    }
    begin, end = random.choice(list(small.values()))
    part = bytearray(rest[begin:end])
    for _ in range(random.choice([1, 3, 100])):
        part[random.randrange(len(part))] = random.choice([0, 1, 127, 128, 255, random.randrange(256)])
    return content[: 8 + size] + rest[:begin] + bytes(part) + rest[end:]


def damage_onnx(content: bytes, random: Random) -> bytes:
    """Change a few fields of a model, whatever they are of; or damage its bytes."""
    if random.random() < 0.2:
        return damage_bytes(content, random)
    model = ModelProto()
    model.ParseFromString(content)
    for _ in range(random.choice([1, 1, 2, 5])):
        _change(model, random)
    return bytes(model.SerializeToString())


NUMBERS = [0, 1, -1, 2, 7, 8, 64, 99, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
TEXTS = [
    "",
    "x",
    "logits",
    "input_ids",
    "Identity",
    "Loop",
    "com.microsoft",
    "../x",
    "/etc/passwd",
    "9" * 40,
    "-1",
    "4096",
]


def _change(message: Any, random: Random) -> None:
    """Go down to some field of a protobuf message and give it another value."""
    fields = [field for field, _ in message.ListFields()] or list(message.DESCRIPTOR.fields)
    field = random.choice(fields)
    value = getattr(message, field.name)
    repeated = hasattr(value, "__len__") and not isinstance(value, str | bytes)
    if repeated and len(value) and (action := random.random()) < 0.3:
        at = random.randrange(len(value))
        if action < 0.15:
            del value[at]
        else:
            value.append(value[at])
    elif field.message_type is not None:
        _change(random.choice(value) if repeated and len(value) else value if not repeated else value.add(), random)
    else:
        new: Any = random.choice(NUMBERS)
        if isinstance(field.default_value, str) or field.type == field.TYPE_STRING:
            new = random.choice(TEXTS)
        elif field.type == field.TYPE_BYTES:
            new = random.randbytes(random.choice([0, 1, 8, 100]))
        elif field.type == field.TYPE_INT32:
            new = max(min(new, 2**31 - 1), -(2**31))
        elif field.enum_type is not None:
            new = random.choice(field.enum_type.values).number
        if repeated:
            value[random.randrange(len(value) + 1) :] = [new]
        else:
            setattr(message, field.name, new)


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": damage_json,
    ".safetensors": damage_safetensors,
    ".onnx": damage_onnx,
}
"""How to damage a file, by how its name ends."""


def replace(path: Path, content: bytes) -> None:
    """Write a file anew, under its old name: what is mapped of the old one stays as it is."""
    new = path.with_name("new")
    new.write_bytes(content)
    new.replace(path)
