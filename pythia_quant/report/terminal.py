"""The table of one benchmark run, in at most 100 columns."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pythia_quant.bench.compare import Change, Comparison
from pythia_quant.bench.gates import describe_gate
from pythia_quant.bench.metrics import (
    METRICS,
    Value,
    bits_per_byte,
    fastest_unquantized,
    fp16_floor,
    outdated,
    outdated_sizes,
    plus_minus,
    reference_perplexity,
)
from pythia_quant.records.results import Results, Row

WIDTH = 100

_HEADINGS = (
    "", "ppl drift\nas run, %", "weights\nonly, %", "KL\nmnat", "top-1\n%", "bits/\nweight", "disk\nMB",
    "prefill\ntok/s", "decode\nms/tok", "×fp16\ndecode", "peak\nMB", "gates",
)  # fmt: skip


def results_table(results: Results) -> RenderableType:
    """Return the table with its legend; headings give the units, and errors are 95 % intervals."""
    reference = reference_perplexity(results)
    title = (
        f"{results.source.model} ({results.source.commit or results.source.revision}): "
        f"{results.source.parameters:,} parameters\n"
        f"fp32 reference: perplexity {plus_minus(reference)}, "
        f"{bits_per_byte(results, results.reference_nll).value:.3f} bits a byte, on "
        f"{results.protocol.windows} windows of {results.protocol.context}"
    )
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    for index, heading in enumerate(_HEADINGS):
        # A long variant name is folded; a number never is.
        table.add_column(heading, justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
    for row in results.rows:
        table.add_row(*_cells(row, results), style="bold" if row.name == results.baseline else "")
    return Group(table, Text("\n".join(_legend(results)), style="dim"))


def print_results(results: Results, console: Console) -> None:
    """Print the table, never wider than 100 columns."""
    console.print(results_table(results), width=WIDTH)


def _cells(row: Row, results: Results) -> list[str]:
    def text_of(key: str, form: str) -> str:
        value = METRICS[key].value_of(row, results)
        return "–" if value is None else format(value.value, form)

    disk = row.disk_bytes / 1e6
    return [
        escape(row.name),
        _drift(row, results),
        _percent(weights.value) if (weights := METRICS["ppl_drift_weights"].value_of(row, results)) else "0",
        "–" if (kl := METRICS["kl"].value_of(row, results)) is None else _kl(kl),
        text_of("top1", ".2f"),
        f"{row.bits_per_weight:.2f}",
        f"{disk:.1f}" if disk < 1000 else f"{disk:,.0f}",
        text_of("prefill", ",.0f"),
        text_of("decode", ".2f"),
        "–" if (ratio := METRICS["speedup_baseline"].value_of(row, results)) is None else _ratio(ratio),
        text_of("memory", ",.0f"),
        _gates(row, results),
    ]


def _drift(row: Row, results: Results) -> str:
    if row.as_run is None:
        return "not run"
    if row.as_run.non_finite:
        return "not finite"
    value = METRICS["ppl_drift"].value_of(row, results)
    return f"{_percent(value.value)}±{value.high - value.value:.2f}" if value else "–"


def _percent(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def _ratio(ratio: Value) -> str:
    """Return a ratio with the wider half of its asymmetric interval, rounded to two figures of that half."""
    if ratio.low == ratio.high:
        return f"{ratio.value:.2f}"
    wider = max(ratio.high - ratio.value, ratio.value - ratio.low)
    decimals = 2 if wider < 0.995 else 1 if wider < 9.95 else 0
    return f"{ratio.value:,.{decimals}f}±{wider:,.{decimals}f}"


def _kl(kl: Value) -> str:
    return f"{kl.value:.2f}" if kl.value >= 0.095 else f"{max(kl.value, 0):.4f}"


def _gates(row: Row, results: Results) -> str:
    outcomes = [gate.outcome for gate in results.gates if gate.variant == row.name]
    if not outcomes:
        return ""
    for outcome, sign in (("failed", "failed"), ("undecided", "open")):
        if outcome in outcomes:
            return sign
    return "passed"


def _legend(results: Results) -> list[str]:
    lines = [
        "Drift, KL, top-1: against the fp32 reference, token by token; ± is a 95 % interval; mnat: 10⁻³ nat.",
        f"Text: {results.text.name}, sha256 {results.text.sha256[:12]}.",
        outdated_sizes(results)
        or "Bits, disk: all of the files that hold weights; of torch rows, a safetensors file in their dtype.",
    ]
    floor, fp16 = fp16_floor(results), results.rows[0].as_run
    if floor is not None:
        kl = METRICS["kl"].value_of(results.row("torch-fp16"), results)
        assert kl is not None  # noqa: S101 - a finite drift has one
        lines.append(f"fp16 floor: KL {_kl(kl)} mnat; at or below it a variant is no worse than fp16.")
    elif fp16 is not None:
        lines.append(
            f"fp16 is not finite at {fp16.non_finite:,} positions: the baseline is {results.baseline}, and there is no "
            "fp16 floor."
        )
    fastest = fastest_unquantized(results)
    if fastest is not None and results.latency is not None:
        speed = fastest.speeds[0]
        lines.append(
            f"Speed: medians of batch 1 in {len(speed.processes)} processes, {speed.threads} threads; prefill of "
            f"{results.latency.prompt} tokens, decode after {results.latency.context}."
        )
        lines.append(f"Unquantized, {fastest.name} decodes fastest: gates on speed compare with it.")
        kind = "95 % interval" if len(speed.processes) > 1 else "range from the 10th to the 90th percentile"
        lines.append(f"×fp16: ± is the wider side of its {kind}.")
        lines.append("Peak: memory of a fresh process at most, above what it held before the model was loaded.")
    lines += [f"{row.name}: {speed.disturbed}." for row in results.rows for speed in row.speeds if speed.disturbed]
    lines += [f"{row.name}: {note}." for row in results.rows for note in row.notes]
    lines += [note for note in (outdated(results), *results.notes) if note]
    return lines + [describe_gate(gate) for gate in results.gates if gate.outcome != "passed"]


_STYLES = {"worse": "bold red", "better": "green", "changed": "yellow", "same": "dim"}


def changes_table(comparison: Comparison, *, everything: bool = False) -> RenderableType:
    """Return the table of the changed values, or of all values if `everything`, with the notes below it."""
    changes = [change for change in comparison.changes if everything or change.verdict != "same"]
    table = Table(box=None, padding=(0, 1, 0, 0))
    for index, heading in enumerate(("row", "value", "before", "after", "difference", "")):
        table.add_column(heading, justify="right" if 2 <= index <= 4 else "left")
    for change in changes:
        metric = METRICS[change.metric]
        unit = f", {metric.unit}" if metric.unit else ""
        cells = (escape(change.row), f"{metric.label}{unit}", _number(change.before.value), _number(change.after.value))
        style = _STYLES[change.verdict]
        table.add_row(*cells, _interval(change.difference), change.verdict, style=style)
    same = sum(change.verdict == "same" for change in comparison.changes)
    summary = f"{len(comparison.changes)} values compared, {same} are the same within their error."
    parts: list[RenderableType] = [table] if changes else []
    return Group(*parts, Text("\n".join([summary, *comparison.notes]), style="dim"))


def changes_data(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON data: every value with its unit, and the notes."""
    return {"changes": [_entry(change) for change in comparison.changes], "notes": comparison.notes}


def _entry(change: Change) -> dict[str, Any]:
    values = {name: getattr(change, name)._asdict() for name in ("before", "after", "difference")}
    return asdict(change) | values | {"unit": METRICS[change.metric].unit}


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _interval(value: Value) -> str:
    return f"{value.value:+.3g} [{value.low:+.3g}, {value.high:+.3g}]"
