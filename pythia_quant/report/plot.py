"""A picture of one benchmark run: what each variant's size and speed cost in drift."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pythia_quant.bench.gates import decode_seconds
from pythia_quant.bench.statistics import estimate
from pythia_quant.results import Results, Row

_QUANTIZED, _UNQUANTIZED, _FLOOR = "#c2410c", "#1d4ed8", "#6b7280"


def plot_results(results: Results, path: Path) -> None:
    """Plot KL divergence as run against bits a weight and decode time; the suffix of `path` picks the format."""
    rows = [row for row in results.rows if not row.as_run.non_finite]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    by_size, by_time = figure.subplots(1, 2, sharey=True)
    _scatter(by_size, rows, [row.bits_per_weight for row in rows])
    by_size.set(xlabel="bits a weight, over all parameters", ylabel="KL divergence from fp32, nats a token")
    timed = [row for row in rows if row.speed]
    _scatter(by_time, timed, [decode_seconds(row) * 1e3 for row in timed])
    by_time.set(xlabel=f"decode, ms a token ({results.cores} cores)")
    floor = results.row("torch-fp16").as_run
    if not floor.non_finite:
        for axes in (by_size, by_time):
            axes.axhline(estimate(floor.kl).value, color=_FLOOR, linestyle=":", linewidth=1)
    windows = f"{results.protocol.windows} windows of {results.protocol.context} tokens"
    figure.suptitle(f"{results.source.model}: drift as run, {windows}, bars are 95 % intervals", fontsize=10)
    figure.savefig(path, dpi=144)


def _scatter(axes: Axes, rows: list[Row], places: list[float]) -> None:
    for row, place in zip(rows, places, strict=True):
        kl = estimate(row.as_run.kl)
        color = _QUANTIZED if row.quantized else _UNQUANTIZED
        axes.errorbar(place, kl.value, yerr=min(kl.margin, 0.9 * kl.value), fmt="o", color=color, capsize=3)
        axes.annotate(row.name, (place, kl.value), xytext=(6, 5), textcoords="offset points", fontsize=8, color=color)
    axes.set_yscale("log")
    axes.margins(x=0.18, y=0.12)
    axes.grid(visible=True, alpha=0.25)
