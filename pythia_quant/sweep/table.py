"""The table of a study: a line for each job, with every metric and its interval, as Parquet and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from pythia_quant.bench.metrics import METRICS
from pythia_quant.core.errors import StudyError
from pythia_quant.core.files import replace_file
from pythia_quant.core.text import short
from pythia_quant.model import suite
from pythia_quant.recipe.variants import parse_variant
from pythia_quant.report.tables import guard_cell
from pythia_quant.sweep.jobs import FLOOR, Group, Job
from pythia_quant.sweep.sources import Identity
from pythia_quant.sweep.store import JobResult, Store

_LINEAR = "gpt_neox.layers.0.attention.query_key_value.weight"

VERSION = 1
"""The version of the columns."""
TABLE = "table.parquet"
_DRIFT = tuple(key for key, metric in METRICS.items() if metric.protocol in ("windows", "lambada", "size"))
_TEXT, _WHOLE, _REAL = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
_FIRST = {
    "model": _TEXT, "revision": _TEXT, "family": _TEXT, "size": _TEXT, "seed": _WHOLE, "step": _WHOLE,
    "tokens": _WHOLE, "learning_rate": _REAL, "parameters": _WHOLE, "non_embedding_parameters": _WHOLE,
    "variant": _TEXT, "format": _TEXT, "bits": _REAL, "status": _TEXT, "duplicate_of": _TEXT, "problem": _TEXT,
}  # fmt: skip
_LAST = {
    "windows": _WHOLE, "context": _WHOLE, "text_sha256": _TEXT, "weights_sha256": _TEXT, "key": _TEXT,
    "runtime": _TEXT, "cpu": _TEXT, "versions": _TEXT, "tool": _TEXT, "created": _TEXT,
    "reference_seconds": _REAL, "convert_seconds": _REAL, "measure_seconds": _REAL,
}  # fmt: skip
_METRICS = {name: _REAL for key in _DRIFT for name in (key, f"{key}_low", f"{key}_high")}
SCHEMA = pyarrow.schema({**_FIRST, **_METRICS, **_LAST}, {"pythia_quant": json.dumps({"table": VERSION})})
"""The columns. ``status`` is ``done``, ``failed``, ``missing`` for a revision that does not exist, or ``open``.

``duplicate_of`` names the source with the same weights that counts, ``bits`` are those of the code of a weight in a
linear layer. Values are in the units of :data:`pythia_quant.bench.metrics.METRICS`.
"""
VOLATILE = ("created", "reference_seconds", "convert_seconds", "measure_seconds")
"""The columns that differ when the same study is run again."""


def lines(
    groups: Sequence[Group],
    identities: Sequence[Identity],
    duplicates: Mapping[int, int],
    store: Store,
) -> list[dict[str, Any]]:
    """Return the lines of a study in the order of its sources and variants, with a value or None for each column.

    Raises:
        StudyError: a result is damaged.
    """
    table, finished, failed = [], store.finished(), store.failed()
    for group, identity in zip(groups, identities, strict=True):
        counted = duplicates.get(group.index)
        for job in group.jobs:
            line: dict[str, Any] = dict.fromkeys(SCHEMA.names)
            line |= _source(group) | _variant(job) | {"key": job.key}
            line["duplicate_of"] = None if counted is None else groups[counted].source.name
            line["weights_sha256"] = ",".join(f"{name}:{digest}" for name, digest in sorted(identity.weights.items()))
            if job.key in finished:  # one at a time: raw samples of thousands would fill the memory
                line |= {"status": "done"} | _values(store.read(job.key))
            elif identity.problem:
                line |= {"status": "missing" if identity.missing else "failed", "problem": identity.problem}
            elif job.key in failed:
                failure = store.read_failure(job.key)
                line |= {"status": "failed", "problem": ": ".join(filter(None, (failure.where, failure.what)))}
            else:
                line["status"] = "open"
            table.append(line)
    return table


def _source(group: Group) -> dict[str, Any]:
    source = group.source
    size = suite.SIZES.get(source.size)
    return {
        "model": source.title, "revision": source.label, "family": source.family, "size": source.size,
        "seed": source.seed, "step": source.step, "tokens": source.tokens, "learning_rate": source.learning_rate,
        "parameters": size and size.parameters,
        "non_embedding_parameters": size and size.non_embedding_parameters,
    }  # fmt: skip


def _variant(job: Job) -> dict[str, Any]:
    if job.settings is None:
        return {"variant": FLOOR, "format": "torch", "bits": 16.0}
    bits = parse_variant(job.settings).code_bits(_LINEAR)
    return {"variant": job.row, "format": job.settings["format"], "bits": float(bits)}


def _values(result: JobResult) -> dict[str, Any]:
    results = result.results
    (row,) = results.rows
    values: dict[str, Any] = {
        "parameters": results.source.parameters,
        "non_embedding_parameters": result.non_embedding_parameters, "windows": results.protocol.windows,
        "context": results.protocol.context, "text_sha256": results.text.sha256, "runtime": row.runtime,
        "cpu": results.machine.cpu, "versions": json.dumps(results.machine.versions, sort_keys=True),
        "tool": results.tool, "created": results.created.isoformat(),
    }  # fmt: skip
    values |= {f"{part}_seconds": result.seconds.get(part) for part in ("reference", "convert", "measure")}
    for key in _DRIFT:
        value = METRICS[key].value_of(row, results)
        if value is not None:
            for name, one in ((key, value.value), (f"{key}_low", value.low), (f"{key}_high", value.high)):
                values[name] = one if math.isfinite(one) else None
    return values


def write_table(table: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write ``table.parquet`` and ``table.csv`` into a folder; return the former's path."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(table), schema=SCHEMA), buffer)
    path = folder / TABLE
    scratch = path.with_name(f".{TABLE}.new")
    scratch.write_bytes(buffer.getvalue())
    scratch.replace(path)
    text = io.StringIO()
    writer = csv.DictWriter(text, SCHEMA.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: guard_cell(value) for name, value in line.items()} for line in table)
    replace_file(folder / "table.csv", text.getvalue())
    return path


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a table that this version wrote.

    Raises:
        StudyError: it is no such table, or damaged.
    """
    hint = "give a table.parquet that pythia-quant sweep wrote"
    try:
        table = pyarrow.parquet.read_table(path)
        version = json.loads((table.schema.metadata or {}).get(b"pythia_quant", b"{}")).get("table")
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        raise StudyError(f"is no table of a study: {short(error)}", where=str(path), hint=hint) from error
    if version != VERSION or table.schema.names != SCHEMA.names or table.schema.types != SCHEMA.types:
        raise StudyError(f"has columns of version {short(version)}, not {VERSION}", where=str(path), hint=hint)
    return list(table.to_pylist())
