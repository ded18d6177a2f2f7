"""Result files of others and of older versions: what can be in them, brought to the present one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from pythia_quant.core.text import printable, short

if TYPE_CHECKING:
    from pythia_quant.records.results import Drift, Results, Row

LARGEST = 3.5e38
"""Just above fp32's largest number: nothing that was measured is larger, and sums of squares stay finite."""

_MOST = 2**53

_DRIFT = ("nll", "kl", "top1")

_HISTOGRAM_BINS = 140

_GATES = ("max_ppl_drift", "max_kl", "min_top1", "min_speedup")

# By the name of the field, wherever it stands: whether a number can be its value.
_Rule = Callable[[float], bool]

_POSITIVE: _Rule = lambda value: value > 0  # noqa: E731

_COUNT: _Rule = lambda value: value >= 0  # noqa: E731

_SHARE: _Rule = lambda value: 0 <= value <= 1  # noqa: E731

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        ("context", "prompts", "contexts", "decoded", "tokens", "bytes", "seconds", "threads", "parameters", "cores",
         "load_seconds", "first_token_seconds", "bits_per_weight", "repetitions", "rounds", "passes", "memory_bytes",
         "read_bytes_per_second", "weight_bytes"), _POSITIVE,
    ),
    **dict.fromkeys(
        ("non_finite", "kl_histogram", "warm_up", "disk_bytes", "start_rss_bytes", "peak_rss_bytes",
         "peak_device_bytes", "others", "windows_needed", "kl_error"), _COUNT,
    ),
    **dict.fromkeys(("top1", "top5", "share"), _SHARE),
    **dict.fromkeys(("windows", "examples"), lambda value: value >= 2),
}  # fmt: skip

_MAY_BE_INFINITE = ("alone", "after", "value", "low", "high", "log_likelihood")
"""Errors of a layer that adds nothing, a gate's value that is none and its interval, a word that cannot be."""


class Fault(NamedTuple):
    """What cannot be in a result file: the key, such as ``rows.3.as_run.nll``, and why."""

    key: str
    why: str


def find_fault(results: Results) -> Fault | None:
    """Return the first value in a result file that no measurement could have given; None if all are possible."""
    return next(_faults(results), None)


def _faults(results: Results) -> Iterator[Fault]:
    yield from _impossible_numbers("", results)
    windows = results.protocol.windows
    if len(results.reference_nll) != windows:
        yield Fault("reference_nll", _lengths(results.reference_nll, windows, "protocol.windows"))
    names = [row.name for row in results.rows]
    for index, name in enumerate(names):
        key = f"rows.{index}.name"
        if not name or printable(name) != name or "\n" in name or len(name) > 200:
            yield Fault(key, f"{short(name)} cannot be the name of a row")
        if name in names[:index]:
            yield Fault(key, f"another row is called {short(name)}")
    if results.baseline not in names:
        yield Fault("baseline", f"there is no row called {short(results.baseline)}")
    for index, gate in enumerate(results.gates):
        if gate.variant not in names:
            yield Fault(f"gates.{index}.variant", f"there is no row called {short(gate.variant)}")
        if gate.gate not in _GATES:
            yield Fault(f"gates.{index}.gate", f"{short(gate.gate)} is no gate")
    latency = results.latency
    for field, lengths in (("prompts", latency.prompts), ("contexts", latency.contexts)) if latency else ():
        if not lengths:
            yield Fault(f"latency.{field}", "is empty")
    for index, row in enumerate(results.rows):
        yield from _row_faults(f"rows.{index}", row, results)


def _row_faults(key: str, row: Row, results: Results) -> Iterator[Fault]:
    for which, drift in (("weights", row.weights), ("as_run", row.as_run)):
        if drift is not None:
            yield from _drift_faults(f"{key}.{which}", drift, results.protocol.windows)
    yield from _speed_faults(key, row, results)
    if row.lambada is not None:
        if results.lambada is None:
            yield Fault(f"{key}.lambada", "was measured without a protocol under lambada")
            return
        for field in ("log_likelihood", "greedy"):
            values = getattr(row.lambada, field)
            if len(values) != results.lambada.examples:
                yield Fault(f"{key}.lambada.{field}", _lengths(values, results.lambada.examples, "lambada.examples"))


def _speed_faults(key: str, row: Row, results: Results) -> Iterator[Fault]:
    if row.speeds and results.latency is None:
        yield Fault(f"{key}.speeds", "speed without a protocol under latency")
    for number, speed in enumerate(row.speeds):
        if not speed.processes:
            yield Fault(f"{key}.speeds.{number}.processes", "is empty")
        for place, process in enumerate(speed.processes):
            here = f"{key}.speeds.{number}.processes.{place}"
            for part, lengths_field in (("prefill", "prompts"), ("decode", "contexts")):
                samples = getattr(process, part)
                if any(not one.seconds for one in samples):
                    yield Fault(f"{here}.{part}", "has no seconds")
                lengths = getattr(results.latency, lengths_field, [])
                if [one.tokens for one in samples] != list(lengths):
                    yield Fault(f"{here}.{part}", f"was not measured at the lengths of latency.{lengths_field}")


def _drift_faults(key: str, drift: Drift, windows: int) -> Iterator[Fault]:
    length = 0 if drift.non_finite else windows
    for field in _DRIFT:
        values = getattr(drift, field)
        if len(values) != length:
            yield Fault(f"{key}.{field}", _lengths(values, length, "protocol.windows, less those not finite"))
    if len(drift.top5) not in (0, length):
        yield Fault(f"{key}.top5", _lengths(drift.top5, length, "protocol.windows"))
    if len(drift.kl_histogram) not in (0, _HISTOGRAM_BINS):
        yield Fault(f"{key}.kl_histogram", _lengths(drift.kl_histogram, _HISTOGRAM_BINS, "its steps"))
    for index, part in enumerate(drift.by_confidence):
        if not 0 <= part.low < part.high <= 1:
            yield Fault(f"{key}.by_confidence.{index}", "is no part of 0 to 1")
    for index, quantile in enumerate(drift.kl_quantiles):
        if not 0 <= quantile.low <= quantile.value <= quantile.high < LARGEST:
            yield Fault(f"{key}.kl_quantiles.{index}", "the value is not within its interval")


def _impossible_numbers(key: str, value: object) -> Iterator[Fault]:
    """Yield numbers, at any depth, that their field cannot have."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _impossible_numbers(f"{key}.{name}" if key else name, getattr(value, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _impossible_numbers(f"{key}.{index}", item)
    elif isinstance(value, int | float) and not isinstance(value, bool) and not _possible(key, value):
        yield Fault(key, f"{short(value)} is not possible")


def _possible(key: str, value: float) -> bool:
    name = next(part for part in reversed(key.split(".")) if not part.isdecimal())
    if name in _MAY_BE_INFINITE and not abs(value) < LARGEST:
        return isinstance(value, float)
    within = abs(value) <= (_MOST if isinstance(value, int) else LARGEST)
    return within and (name not in _RULES or _RULES[name](value))


def _lengths(values: Sequence[object], expected: int, rule: str) -> str:
    return f"has {len(values):,} values; {rule} is {expected:,}"


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
