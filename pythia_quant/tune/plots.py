"""The pictures of a search: what each tensor costs in each layer, and size against drift of all that was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from pythia_quant.model.architecture import LINEARS
from pythia_quant.report.style import new_figure, plot_settings, set_log_scale, set_margins, style_axes, tick_label
from pythia_quant.report.theme import LIGHT
from pythia_quant.tune.choices import Option
from pythia_quant.tune.records import Sensitivity
from pythia_quant.tune.trials import Trial

_ROW, _MOST_SHARE = 13, 0.5


def shown_option(sensitivity: Sensitivity) -> Option:
    """Return the option that the heat map shows: the one of the fewest bytes that all linear layers have."""
    rows = [row for row in sensitivity.tensors if row.tensor.startswith("layers.")]
    common = [
        cell.option for cell in rows[0].cells if all(cell.option in [c.option for c in row.cells] for row in rows)
    ]
    return common[0]


def draw_heat_map(sensitivity: Sensitivity) -> Figure:
    """Draw layers by tensors, coloured by what each costs alone in the smallest option; embeddings and head beside."""
    option, table = shown_option(sensitivity), sensitivity.table()
    layers = 1 + max(int(row.tensor.split(".")[1]) for row in sensitivity.tensors if row.tensor.startswith("layers."))
    values = np.full((layers, len(LINEARS) + 2), np.nan)
    for index in range(layers):
        for column, name in enumerate(LINEARS):
            values[index, column] = 1000 * table[f"layers.{index}.{name}"][option].value
    # Embeddings and head belong to no layer: they stand in the rows of the first and the last.
    for column, (key, index) in enumerate((("embeddings", 0), ("head", layers - 1)), len(LINEARS)):
        cells = table[key]
        values[index, column] = 1000 * cells.get(option, next(iter(cells.values()))).value
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (1.0, 2.0)
    with plot_settings():
        figure = new_figure(LIGHT, (layers * max(_ROW, 16) + 110) / 72)
        axes = figure.subplots()
        set_margins(figure, 42, 66, 76, 24)
        colors = LinearSegmentedColormap.from_list("cost", [LIGHT.paper, LIGHT.colors[0]])
        colors.set_bad(LIGHT.paper)
        image = axes.imshow(values, aspect="auto", cmap=colors, norm=LogNorm(low / 1.5, max(high, low * 1.5)))
        style_axes(axes, LIGHT)
        axes.grid(visible=False)
        names = [name.rpartition(".")[2] for name in LINEARS]
        names[1] = "attention.dense"
        axes.set_xticks(range(len(names) + 2), [*names, "embeddings", "head"], rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(layers))
        axes.set_ylabel("layer")
        axes.set_title(f"KL alone in {option}, mnat ({sensitivity.way})", fontsize=9, color=LIGHT.ink, loc="left")
        for (row, column), value in np.ndenumerate(values):
            if math.isfinite(value):
                dark = value > math.sqrt(low / 1.5 * high)
                text = f"{value:.2g}" if value < 100 else f"{value:.0f}"
                axes.text(
                    column, row, text, ha="center", va="center", fontsize=7.5, color=LIGHT.paper if dark else LIGHT.ink
                )
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
        bar.outline.set_visible(False)
        bar.ax.tick_params(which="both", color=LIGHT.muted, labelcolor=LIGHT.muted, labelsize=8)
        bar.ax.yaxis.set_major_formatter(lambda value, _: tick_label(value))
        bar.ax.yaxis.set_minor_formatter(lambda _value, _: "")
    return figure


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other beats in both size and drift, the smallest first."""
    ordered = sorted(trials, key=lambda trial: (trial.bytes, trial.kl))
    kept: list[Trial] = []
    for trial in ordered:
        if not kept or trial.kl < kept[-1].kl:
            kept.append(trial)
    return kept


def knee(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial of a front that is farthest below the line between its ends, in bytes and the logarithm of KL.

    None if the front has fewer than three trials.
    """
    if len(trials) < 3:
        return None
    places = np.array([(trial.bytes, math.log(max(trial.kl, 1e-9))) for trial in trials])
    span = places[-1] - places[0]
    if not span.all():
        return None
    scaled = (places - places[0]) / span  # from (0, 0) to (1, 1), and the drift falls: a knee is far above this line
    depth = scaled[:, 1] - scaled[:, 0]
    best = int(depth.argmax())
    return trials[best] if depth[best] > 0 else None


def draw_front(trials: Sequence[Trial], chosen: Trial | None) -> Figure:
    """Draw size against the KL divergence of all trials on the selection text, the front as a line, knee and choice."""
    with plot_settings():
        figure = new_figure(LIGHT, 3.4)
        axes = figure.subplots()
        set_margins(figure, 52, 16, 38, 12)
        style_axes(axes, LIGHT)
        best = front(trials)
        axes.plot([t.bytes / 1e6 for t in best], [1000 * t.kl for t in best], color=LIGHT.colors[0], linewidth=1.2)
        for uniform, marker, name in ((False, "o", "mixed"), (True, "s", "uniform")):
            some = [trial for trial in trials if trial.uniform == uniform]
            color = LIGHT.colors[0] if not uniform else LIGHT.colors[1]
            axes.plot(
                [t.bytes / 1e6 for t in some], [1000 * t.kl for t in some], marker, color=color, markersize=5,
                linestyle="none", label=name,
            )  # fmt: skip
        for trial, word, offset in ((knee(best), "knee", (6, 8)), (chosen, "chosen", (6, -12))):
            if trial is not None:
                place = (trial.bytes / 1e6, 1000 * trial.kl)
                axes.annotate(word, place, offset, textcoords="offset points", fontsize=8.5, color=LIGHT.ink)
                axes.plot(*place, "o", markersize=11, fillstyle="none", color=LIGHT.ink, linestyle="none")
        values = [max(1000 * trial.kl, 1e-6) for trial in trials]
        set_log_scale(axes.yaxis, min(values) / 1.3, max(values) * 1.3)
        axes.set_xlabel("files of weights, MB")
        axes.set_ylabel("KL as run, mnat")
        axes.legend(frameon=False, fontsize=8.5, labelcolor=LIGHT.ink)
    return figure
