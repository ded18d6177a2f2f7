"""The table of one benchmark run, in at most 100 columns."""

from __future__ import annotations

import math

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pythia_quant.bench.gates import decode_seconds, fastest_unquantized, ppl_drift_percent, top1_percent
from pythia_quant.bench.statistics import Estimate, estimate, paired, perplexity, spread
from pythia_quant.results import Drift, Results, Row

WIDTH = 100
_HEADINGS = (
    "", "ppl drift\nas run, %", "weights\nonly, %", "KL\nmnat", "top-1\n%", "bits/\nweight", "disk\nMB",
    "prefill\ntok/s", "decode\nms/tok", "×fp16\ndecode", "memory\nMB", "gates",
)  # fmt: skip


def results_table(results: Results) -> RenderableType:
    """Return the table with its legend; every number carries its unit, and errors are 95 % intervals."""
    reference = perplexity(results.reference_nll)
    per_byte = bits_per_byte(results)
    title = (
        f"{results.source.model} ({results.source.commit or results.source.revision}): "
        f"{results.source.parameters:,} parameters\n"
        f"fp32 reference: perplexity {reference.value:.2f} ± {reference.margin:.2f}, {per_byte:.3f} bits a byte, on "
        f"{results.protocol.windows} windows of {results.protocol.context}"
    )
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    for index, heading in enumerate(_HEADINGS):
        # A long variant name is folded; a number never is.
        table.add_column(heading, justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
    for row in results.rows:
        table.add_row(*_cells(row, results), style="bold" if row.name == results.baseline else "")
    return Group(table, Text("\n".join(_legend(results)), style="dim"))


def bits_per_byte(results: Results) -> float:
    """Return the reference's mean bits a token, times the text's tokens a byte."""
    bits_per_token = estimate(results.reference_nll).value / math.log(2)
    return bits_per_token * results.text.tokens / results.text.bytes


def print_results(results: Results, console: Console) -> None:
    """Print the table, never wider than 100 columns."""
    console.print(results_table(results), width=WIDTH)


def _cells(row: Row, results: Results) -> list[str]:
    kl = "–" if row.as_run.non_finite else _kl(row.as_run)
    drift = "not finite" if row.as_run.non_finite else _signed(ppl_drift_percent(row, results))
    cells = [row.name, drift, _weights(row, results), kl, _top1(row), f"{row.bits_per_weight:.2f}"]
    cells.append(f"{row.disk_bytes / 1e6:.1f}" if row.disk_bytes < 1e9 else f"{row.disk_bytes / 1e6:,.0f}")
    if row.speed is None:
        return [*cells, "–", "–", "–", "–", _gates(row, results)]
    _, prefill, _ = spread(row.speed.prefill_seconds)
    _, decode, _ = spread(row.speed.decode_seconds)
    baseline = decode_seconds(results.row(results.baseline))
    return [
        *cells,
        f"{row.speed.prompt_tokens / prefill:,.0f}",
        f"{decode * 1e3:.2f}",
        _ratio(baseline / decode),
        f"{(row.speed.peak_rss_bytes - row.speed.start_rss_bytes) / 1e6:,.0f}",
        _gates(row, results),
    ]


def _weights(row: Row, results: Results) -> str:
    if row.weights is None:
        return "0"
    log_ratio = paired(row.weights.nll, results.reference_nll)
    return _percent(100 * math.expm1(log_ratio.value))


def _signed(value: Estimate) -> str:
    return f"{_percent(value.value)}±{value.margin:.2f}"


def _percent(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _kl(drift: Drift) -> str:
    value = estimate(drift.kl).value * 1e3
    return f"{value:.2f}" if value >= 0.095 else f"{max(value, 0):.4f}"


def _top1(row: Row) -> str:
    return "–" if row.as_run.non_finite else f"{top1_percent(row).value:.2f}"


def _gates(row: Row, results: Results) -> str:
    outcomes = [gate.outcome for gate in results.gates if gate.variant == row.name]
    if not outcomes:
        return ""
    for outcome, sign in (("failed", "failed"), ("undecided", "open")):
        if outcome in outcomes:
            return sign
    return "passed"


def _legend(results: Results) -> list[str]:
    threads = next((row.speed.threads for row in results.rows if row.speed), 0)
    lines = [
        "Drift, KL, top-1: against the fp32 reference, token by token; ± is a 95 % interval; mnat: 10⁻³ nat.",
        f"Text: {results.text.name}, sha256 {results.text.sha256[:12]}.",
    ]
    floor = results.row("torch-fp16")
    if floor.as_run.non_finite:
        lines.append(
            f"fp16 is not finite at {floor.as_run.non_finite:,} positions: the baseline is torch-fp32, and there is no "
            "fp16 floor."
        )
    else:
        lines.append(f"fp16 floor: KL {_kl(floor.as_run)} mnat; at or below it a variant is no worse than fp16.")
    fastest = fastest_unquantized(results)
    if fastest is not None and fastest.speed is not None:
        lines.append(
            f"Speed: medians of batch 1, {threads} threads; prefill of {fastest.speed.prompt_tokens} tokens, decode "
            f"after {fastest.speed.decode_prompt_tokens}."
        )
        lines.append(f"Unquantized, {fastest.name} decodes fastest: gates on speed compare with it.")
        lines.append("Memory: peak of a fresh process above what it held before the model was loaded.")
    for gate in results.gates:
        if gate.outcome != "passed":
            needed = f"; about {gate.windows_needed:,} windows would decide" if gate.windows_needed else ""
            lines.append(
                f"Gate {gate.gate} {gate.limit:g} of {gate.variant} {gate.outcome}: {gate.value:.3g} "
                f"[{gate.low:.3g}, {gate.high:.3g}]{needed}."
            )
    return lines
