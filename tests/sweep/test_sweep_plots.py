"""The axes that plots of a study share, and what a plot draws."""

import numpy as np
import pytest
import sweep_tables as made
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pythia_quant.model.schedule import TOKENS_PER_STEP
from pythia_quant.report.labels import MOST_NAMES
from pythia_quant.report.theme import LIGHT, Look, name_styles
from pythia_quant.sweep.plots import SPREAD, draw_panel, shared_axis, shared_scale
from pythia_quant.sweep.series import Panel, panels


def across(line: Line2D) -> list[float]:
    return [float(place) for place in np.asarray(line.get_xdata())]


def drawn(found: list[Panel]) -> list[Figure]:
    look = Look(LIGHT, name_styles((curve.variant, not curve.is_floor) for one in found for curve in one.curves))
    return [draw_panel(one, shared_axis(found), shared_scale(found), "KL, mnat", look) for one in found]


@pytest.fixture(scope="module")
def found() -> list[Panel]:
    return panels([("study", made.study())], [""], "kl")


def test_all_panels_have_the_same_axes_and_step_0_stands_left_of_the_first_place(found: list[Panel]) -> None:
    axis = shared_axis(found)
    assert (axis.low, axis.high) == (TOKENS_PER_STEP, 143000 * TOKENS_PER_STEP)
    assert axis.zero is not None
    assert axis.place(0, 0) == axis.zero < axis.low
    assert axis.place(64, 64 * TOKENS_PER_STEP) == 64 * TOKENS_PER_STEP
    figures = drawn(found)
    for get in ("get_xlim", "get_ylim", "get_yscale"):
        assert len({getattr(figure.axes[0], get)() for figure in figures}) == 1
    for figure in figures:
        upper, rates = figure.axes
        assert upper.get_xlim() == rates.get_xlim()
        left, right = upper.get_xlim()
        assert left < axis.zero
        assert right > axis.high
        labels = [label.get_text() for label in rates.get_xticklabels()]
        assert labels == ["0", "10M", "100M", "1B", "10B", "100B"]


def test_no_line_crosses_the_break(found: list[Panel]) -> None:
    zero = shared_axis(found).zero
    for figure in drawn(found):
        curves = [across(line) for line in figure.axes[0].lines if line.get_gid()]
        alone = [places for places in curves if zero in places]
        assert alone
        assert all(set(places) == {zero} for places in alone)


def test_without_step_0_there_is_no_break_and_without_rates_no_second_plot() -> None:
    lines = [line | {"learning_rate": None, "tokens": None} for line in made.study(["70m"], [1], [64, 512])]
    found = panels([("study", lines)], [""], "kl")
    axis = shared_axis(found)
    assert (axis.tokens, axis.low, axis.high, axis.zero) == (False, 64, 512, None)
    (figure,) = drawn(found)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "training step"
    assert len([line for line in axes.lines if not line.get_gid()]) == 0


def test_an_axis_is_logarithmic_unless_a_value_is_not_positive(found: list[Panel]) -> None:
    scale = shared_scale(found)
    values = [point.value for one in found for curve in one.curves for point in curve.mean]
    assert scale.linear == 0
    assert 0 < scale.low < min(value.value for value in values)
    assert scale.high > max(value.high for value in values)
    drift = shared_scale(panels([("study", made.study())], [""], "ppl_drift"))
    assert drift.linear == pytest.approx(0.01)
    assert drift.low < 0 < drift.high


def test_runs_are_thin_and_their_mean_is_thick(found: list[Panel]) -> None:
    for figure, one in zip(drawn(found), found, strict=True):
        widths = [line.get_linewidth() for line in figure.axes[0].lines if len(across(line)) > 2]
        assert widths.count(0.7) == 3 * len(one.curves)
        assert widths.count(1.6) == len(one.curves)


def test_the_spread_over_seeds_is_a_named_band_within_the_axes() -> None:
    found = panels([("study", made.apart(made.study()))], [""], "ppl_drift")
    scale = shared_scale(found)
    for figure, one in zip(drawn(found), found, strict=True):
        axes = figure.axes[0]
        dotted = {tuple(np.asarray(line.get_ydata())) for line in axes.lines if not line.get_gid()}
        later = [point for point in one.spread if point.step]
        for end in ("low", "value", "high"):
            assert tuple(getattr(point.value, end) for point in later) in dotted
        assert all(scale.low < point.value.value < scale.high for point in one.spread)
        texts = [text.get_text() for text in axes.texts]
        assert texts.count(SPREAD) == 1
    (figure,) = drawn(panels([("study", made.apart(made.study(["70m"], [1])))], [""], "ppl_drift"))
    assert SPREAD not in [text.get_text() for text in figure.axes[0].texts]


def test_many_variants_get_a_legend() -> None:
    names = [f"variant-{index}" for index in range(MOST_NAMES + 1)]
    lines = [made.line("70m", 1, step, "gptq-int3", variant=name) for name in names for step in (64, 512)]
    (figure,) = drawn(panels([("study", lines)], [""], "kl"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
