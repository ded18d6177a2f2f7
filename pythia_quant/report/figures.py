"""The plots of a report: their titles, captions, and the functions that draw them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from pythia_quant.records.results import Results
from pythia_quant.report import curves, plots
from pythia_quant.report.facts import QUICK
from pythia_quant.report.theme import Look

_BARS = "Bars are 95 % intervals from windows"
_DECODE_BARS = "across, from the 10th to the 90th percentile of tokens"


@dataclass(frozen=True)
class Plot:
    """A plot of one result file.

    Attributes:
        key: part of its file's name.
        title: short.
        draw: returns the figure; None when there is nothing to draw.
        caption: returns what is drawn, with which interval, and how to read it.
        absent: the reason that a report gives when there is nothing to draw.
    """

    key: str
    title: str
    draw: Callable[[Results, Look], Figure | None]
    caption: Callable[[Results], str]
    absent: str


def overview_plots(contents: Sequence[Results], look: Look) -> list[tuple[str, str, Figure, str]]:
    """Return key, title, figure and caption of the plots that show several result files at once."""
    letters = "A letter stands for a result file, colour and shape for a row; shapes of unquantized rows are hollow."
    by_size, by_decode = plots.drift_by_size(contents, look), plots.drift_by_decode(contents, look)
    overview = []
    if by_size:
        caption = (
            f"{letters} {_BARS}. Points on the lower edge drift less than is worth drawing. Each row is compared with "
            f"its own model's fp32 reference. Left and down is better.{_fronts(contents, 'bits_per_weight')}"
        )
        overview.append(("drift-size", "Drift against size", by_size, caption))
    if by_decode:
        caption = (
            f"{letters} {_BARS}; {_DECODE_BARS}. Times of two machines, or of models of two sizes, say nothing about "
            f"the variants: compare within one file. Left and down is better.{_fronts(contents, 'decode')}"
        )
        overview.append(("drift-decode", "Drift against decode time", by_decode, caption))
    return overview


def _drift_by_size_caption(results: Results) -> str:
    return (
        f"KL divergence of next-token predictions from the fp32 reference, mean over {_windows(results)}, as run. "
        f"{_BARS}; most are smaller than their marker. Solid shapes are quantized, hollow ones are not. Left and down "
        f"is better; at or below the fp16 floor a variant is no worse than fp16.{_front(results, 'bits_per_weight')}"
        f"{_undrawn_rows(results)}"
    )


def _drift_by_decode_caption(results: Results) -> str:
    return (
        f"The same divergence against the median time of a decoded token{_threads(results)}. {_BARS}; {_DECODE_BARS}."
        f"{_front(results, 'decode')}{_undrawn_rows(results)}{_disturbed_rows(results)}"
    )


def _front(results: Results, key: str) -> str:
    if not plots.draws_front([results], key):
        return ""
    return " The staircase is the Pareto front: what lies right of it or above it is beaten by a row on it in both."


def _fronts(contents: Sequence[Results], key: str) -> str:
    return " Each staircase is one file's Pareto front." if plots.draws_front(contents, key) else ""


def _decode_caption(results: Results) -> str:
    return (
        f"Median time of a decoded token, batch 1{_threads(results)}; bands go from the 10th to the 90th percentile of "
        "all processes' tokens. Lower is better; what rises to the right is the cost of attention over the context."
        f"{_disturbed_rows(results)}"
    )


def _prefill_caption(results: Results) -> str:
    return (
        f"Median rate of prefill, batch 1{_threads(results)}; bands go from the 10th to the 90th percentile. Higher is "
        f"better.{_disturbed_rows(results)}"
    )


def _by_threads_caption(results: Results) -> str:
    return (
        f"Median time of a decoded token, batch 1, on {results.machine.cores} cores; bands go from the 10th to the "
        "90th percentile. A line that no longer falls is held up by the memory, not by arithmetic."
        f"{_disturbed_rows(results)}"
    )


def _layers_caption(results: Results) -> str:  # noqa: ARG001 - all captions have one signature
    return (
        "Root-mean-square error of hidden states in fp32 arithmetic, on the first windows, without an interval. Above: "
        "of what each layer adds, were it alone quantized. Below: of the hidden states after it, errors of all layers "
        "before it included. A peak above is a layer worth more bits."
    )


def _histogram_caption(results: Results) -> str:
    return (
        f"How the divergence is distributed over the tokens of {_windows(results)}, in steps of a tenth of a decade, "
        "all to one scale. The bar is the median, the dot the 99th percentile: two variants of equal mean can differ "
        "in how often they are far off. The first step holds everything below it."
    )


def _windows(results: Results) -> str:
    quick = f" ({QUICK})" if results.quick else ""
    return f"{results.protocol.windows} windows of {results.protocol.context:,} tokens{quick}"


def _threads(results: Results) -> str:
    counts = sorted({row.speeds[0].threads for row in results.rows if row.speeds})
    return f", {' or '.join(map(str, counts))} threads" if counts else ""


def _disturbed_rows(results: Results) -> str:
    names = [row.name for row in results.rows if any(speed.disturbed for speed in row.speeds)]
    return f" Disturbed while their speed was measured: {', '.join(names)}." if names else ""


def _undrawn_rows(results: Results) -> str:
    text = " ↓ marks what drifts less than is drawn."
    non_finite = [row.name for row in results.rows if row.as_run and row.as_run.non_finite]
    not_run = [row.name for row in results.rows if not row.as_run]
    if non_finite:
        text += f" Not drawn, because logits were not finite: {', '.join(non_finite)}."
    if not_run:
        text += f" Not drawn, because they were not run: {', '.join(not_run)}."
    return text


PLOTS = (
    Plot(
        "drift-size", "Drift against size",
        lambda results, look: plots.drift_by_size([results], look), _drift_by_size_caption,
        "no row was run",
    ),
    Plot(
        "drift-decode", "Drift against decode time", lambda results, look: plots.drift_by_decode([results], look),
        _drift_by_decode_caption, "no row has both drift and speed",
    ),
    Plot(
        "decode-context", "Decode against context", curves.decode_by_context, _decode_caption,
        "speed was measured after fewer than two context lengths",
    ),
    Plot(
        "prefill-prompt", "Prefill against prompt", curves.prefill_by_prompt, _prefill_caption,
        "speed was measured with fewer than two prompt lengths",
    ),
    Plot(
        "decode-threads", "Decode against threads", curves.decode_by_threads, _by_threads_caption,
        "speed was measured with one number of threads",
    ),
    Plot("layers", "Error by layer", curves.layer_errors, _layers_caption, "the file holds no errors of layers"),
    Plot(
        "kl-histogram", "Divergence by token", curves.kl_histograms, _histogram_caption,
        "the file holds no divergence of single tokens",
    ),
)  # fmt: skip
"""All plots of one result file, in their order on the page."""

FIRST_TITLES = ("Drift against size", "Drift against decode time")
"""The titles of the plots above the table of all rows."""
