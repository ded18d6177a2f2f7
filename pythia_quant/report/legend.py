"""What is said below the table on a terminal: how its columns are defined, and what is special about its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pythia_quant.bench.agreement import describe_published, disagreement
from pythia_quant.bench.gates import describe_gate
from pythia_quant.bench.metrics import METRICS, fastest_unquantized, fp16_floor, outdated, outdated_sizes
from pythia_quant.records.results import Results
from pythia_quant.report.columns import GATES, Block
from pythia_quant.report.numbers import format_value

NOT_OURS = " †"
"""The mark after the name of a row that measures what others made."""


class Entry(NamedTuple):
    """A line below the table: a term or the names of rows, and what is said of them."""

    term: str
    text: str


def definitions(results: Results, blocks: Sequence[Block]) -> list[Entry]:
    """Return what the columns mean, which is the same for every result of one protocol."""
    shown = {column.key for block in blocks for column in block.columns}
    intervals = {key for block in blocks for key in block.intervals}
    protocols = {METRICS[key].protocol for key in shown - {GATES}}
    entries = []
    if "windows" in protocols:
        drift = "against the fp32 reference, token by token; ± is a 95 % interval; mnat: 10⁻³ nat"
        entries.append(Entry("Drift, KL, top-1", drift))
    if "size" in protocols:
        files = "all of the files that hold weights; of torch rows, a safetensors file in their dtype"
        entries.append(Entry("Bits, disk", outdated_sizes(results).rstrip(".") or files))
    if "latency" in protocols and results.latency is not None:
        entries += _of_speed(results, shown, intervals)
    return entries


def _of_speed(results: Results, shown: set[str], intervals: set[str]) -> list[Entry]:
    fastest, latency = fastest_unquantized(results), results.latency
    if fastest is None or latency is None:
        return []
    speed = fastest.speeds[0]
    count = len(speed.processes)
    percentiles = "the range from the 10th to the 90th percentile"
    lengths = f"prefill of {latency.prompt:,} tokens, decode after {latency.context:,}"
    processes = "1 process" if count == 1 else f"{count} processes"
    medians = f"medians of batch 1 in {processes}, {speed.threads} threads; {lengths}"
    spread = [key for key in intervals & shown if METRICS.get(key) and METRICS[key].protocol == "latency"]
    if any(not key.startswith("speedup") for key in spread):
        medians += f"; ± is the wider side of {percentiles}"
    entries = [Entry("Speed", medians)]
    if "speedup_baseline" in shown:
        kind = "its 95 % interval" if count > 1 else percentiles
        entries.append(Entry(f"×{results.baseline.removeprefix('torch-')}", f"± is the wider side of {kind}"))
    if "memory" in shown:
        entries.append(Entry("Peak", "memory of a fresh process at most, above what it held before the model"))
    return entries


def particulars(results: Results) -> list[Entry]:
    """Return what is special about these numbers: text, published numbers, fp16 floor, disturbances, notes of rows."""
    entries = [Entry("Text", f"{results.text.name}, sha256 {results.text.sha256[:12]}")]
    if published := describe_published(results):
        entries.append(Entry("LAMBADA", published))
    floor = fp16_floor(results)
    fp16 = next((row for row in results.rows if row.name == "torch-fp16"), None)
    if floor is not None and fp16 is not None:
        kl = format_value(METRICS["kl"], fp16, METRICS["kl"].value_of(fp16, results)).text
        entries.append(Entry("fp16 floor", f"KL {kl} mnat; at or below it a variant is no worse than fp16"))
    elif fp16 is not None and fp16.as_run is not None:
        faults = f"not finite at {fp16.as_run.non_finite:,} positions"
        entries.append(Entry("fp16", f"{faults}: the baseline is {results.baseline}, and there is no fp16 floor"))
    if any(row.foreign for row in results.rows):
        entries.append(Entry(NOT_OURS.strip(), f"made by others of what they say is {results.source.model}"))
    if any(gate.gate == "min_speedup" for gate in results.gates) and (fastest := fastest_unquantized(results)):
        entries.append(Entry("Gates on speed", f"compare with {fastest.name}, which decodes fastest unquantized"))
    of_rows: dict[str, list[str]] = {}
    for row in results.rows:
        for note in (*(speed.disturbed for speed in row.speeds), *row.notes):
            if note and row.name not in of_rows.setdefault(note, []):
                of_rows[note].append(row.name)
    return entries + [Entry(", ".join(names), note) for note, names in of_rows.items()]


def sentences(results: Results) -> list[str]:
    """Return what concerns all rows, and the gates that did not pass, in whole sentences."""
    notes = [note for note in (outdated(results), disagreement(results), *results.notes) if note]
    return notes + [describe_gate(gate) for gate in results.gates if gate.outcome != "passed"]
