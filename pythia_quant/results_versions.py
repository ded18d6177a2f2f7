"""Result files of older versions, brought to the present one step by step, as plain data."""

from __future__ import annotations

from typing import Any

CURRENT: Any = 4
"""The schema version that is written."""


def upgrade(data: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a result file, of any version up to :data:`CURRENT`, as the present version has it."""
    for version in range(data["schema_version"], CURRENT):
        data = _STEPS[version](data)
    return data


def _to_2(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one prompt, one context and one process a row, and CPU and instruction sets in one string."""
    data = dict(data)
    name, _, sets = data.pop("cpu").partition(" (")
    machine = {
        "cpu": name,
        "instruction_sets": sets.rstrip(")").split(),
        "cores": data.pop("cores"),
        "memory_bytes": None,
        "system": "not recorded",
        "versions": data.pop("versions"),
    }
    latency, rows = None, []
    for before in data["rows"]:
        row = dict(before)
        speed = row.pop("speed", None)
        row["speeds"] = [_speed_1(speed)] if speed else []
        rows.append(row)
        if speed:
            latency = {
                "version": 1,
                "prompts": [speed["prompt_tokens"]],
                "contexts": [speed["decode_prompt_tokens"]],
                "decoded": len(speed["decode_seconds"]),
                "repetitions": len(speed["prefill_seconds"]),
                "warm_up": 2,
                "rounds": 1,
            }
    return data | {"schema_version": 2, "machine": machine, "latency": latency, "rows": rows}


def _speed_1(speed: dict[str, Any]) -> dict[str, Any]:
    process = {
        "load_seconds": speed["load_seconds"],
        "first_token_seconds": None,
        "prefill": [{"tokens": speed["prompt_tokens"], "seconds": speed["prefill_seconds"]}],
        "decode": [{"tokens": speed["decode_prompt_tokens"], "seconds": speed["decode_seconds"]}],
        "start_rss_bytes": speed["start_rss_bytes"],
        "peak_rss_bytes": speed["peak_rss_bytes"],
    }
    return {"threads": speed["threads"], "weight_bytes": None, "processes": [process]}


def _to_3(data: dict[str, Any]) -> dict[str, Any]:
    """Version 2 knew protocol ``windows`` in version 1 only, the first windows of a text."""
    return data | {"schema_version": 3, "protocol": {"version": 1} | data["protocol"]}


def _to_4(data: dict[str, Any]) -> dict[str, Any]:
    """Version 3 counted the bits of tensors alone, and all files of an artifact: which files they were is not known."""
    return data | {"schema_version": 4, "size_version": 1}


_STEPS = {1: _to_2, 2: _to_3, 3: _to_4}
