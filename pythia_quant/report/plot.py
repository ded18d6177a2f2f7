"""A picture of one benchmark run: what each variant's size and speed cost in drift."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pythia_quant.bench.metrics import decode_ms, fp16_floor
from pythia_quant.bench.statistics import Estimate, estimate
from pythia_quant.results import Results, Row

_QUANTIZED, _UNQUANTIZED, _FLOOR = "#c2410c", "#1d4ed8", "#6b7280"


def plot_results(results: Results, path: Path) -> None:
    """Plot KL divergence as run against bits a weight and decode time; the suffix of `path` picks the format."""
    rows = sorted((row for row in results.rows if row.as_run and row.as_run.kl), key=lambda row: _kl(row).value)
    floor = fp16_floor(results)
    # fp32 arithmetic is some six decades below everything of interest: it is drawn on the lower edge, as a triangle.
    smallest = estimate(floor.kl).value if floor else 1e-6
    bottom = smallest / 3
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    by_size, by_time = figure.subplots(1, 2, sharey=True)
    _scatter(by_size, rows, [row.bits_per_weight for row in rows], bottom)
    by_size.set(xlabel="bits a weight, over all parameters", ylabel="KL divergence from fp32, nats a token")
    timed = [(row, decode.value) for row in rows if (decode := decode_ms(row, results))]
    _scatter(by_time, [row for row, _ in timed], [milliseconds for _, milliseconds in timed], bottom)
    by_time.set(xlabel=f"decode, ms a token ({results.machine.cores} cores)")
    if floor:
        for axes in (by_size, by_time):
            axes.axhline(smallest, color=_FLOOR, linestyle=":", linewidth=1)
        place = {"xycoords": ("axes fraction", "data"), "va": "bottom", "ha": "right"}
        by_size.annotate("fp16 floor", (0.99, smallest), fontsize=8, color=_FLOOR, **place)
    windows = f"{results.protocol.windows} windows of {results.protocol.context} tokens"
    figure.suptitle(f"{results.source.model}: drift as run, {windows}, bars are 95 % intervals", fontsize=10)
    figure.savefig(path, dpi=144)


def _kl(row: Row) -> Estimate:
    assert row.as_run is not None  # noqa: S101 - rows that were not run are not drawn
    return estimate(row.as_run.kl)


def _scatter(axes: Axes, rows: list[Row], places: list[float], bottom: float) -> None:
    """Draw rows in the order of their divergence; a label goes below its point where the next one is close above,
    and to the left where one as high is close on the right.
    """
    for index, (row, place) in enumerate(zip(rows, places, strict=True)):
        kl = _kl(row)
        color = _QUANTIZED if row.quantized else _UNQUANTIZED
        height = max(kl.value, bottom)
        if kl.value < bottom:
            axes.plot(place, bottom, "v", color=color, clip_on=False)
        else:
            axes.errorbar(place, kl.value, yerr=min(kl.margin, 0.9 * kl.value), fmt="o", color=color, capsize=3)
        near = (
            abs(place - other) < 0.2 * max(places) and _kl(above).value < 3 * height
            for above, other in zip(rows[index + 1 :], places[index + 1 :], strict=True)
        )
        offset = -11 if height > bottom and any(near) else 5
        beside = any(
            0 < other - place < 0.2 * max(places) and 0.95 < _kl(next_to).value / height < 1.05
            for next_to, other in zip(rows, places, strict=True)
        )
        side: Literal["left", "right"] = "right" if beside else "left"
        where = (-6 if beside else 6, offset)
        label = axes.annotate(row.name, (place, height), xytext=where, textcoords="offset points", ha=side)
        label.set(fontsize=8, color=color)
    axes.set_yscale("log")
    axes.set_ylim(bottom=bottom)
    axes.margins(x=0.25, y=0.15)
    axes.grid(visible=True, alpha=0.25)
