import itertools
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import plausible
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from measured import results, row

from pythia_quant.records.results import Drift, Results
from pythia_quant.report import curves, plots
from pythia_quant.report.figures import PLOTS, overview_plots
from pythia_quant.report.inline import inline_svg
from pythia_quant.report.labels import LONGEST_NAME, MOST_NAMES, shorten_name, spread_out
from pythia_quant.report.plots import pareto_front
from pythia_quant.report.style import plot_settings, recolor_svg, render_figure, tick_label
from pythia_quant.report.theme import DARK, LIGHT, Look, Theme, row_styles

THEMES = (LIGHT, DARK)

SVG = "{http://www.w3.org/2000/svg}"
coordinate = st.integers(0, 6).map(float)


def look(*contents: Results, theme: Theme = LIGHT) -> Look:
    return Look(theme, row_styles(contents))


@pytest.fixture(scope="module")
def rich() -> Results:
    return plausible.results("70m")


def texts(svg: bytes) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other


@given(st.lists(st.tuples(coordinate, coordinate), max_size=12))
def test_the_pareto_front_is_what_no_other_point_beats(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    assert sorted(front) == [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]
    assert [points[index][0] for index in front] == sorted(points[index][0] for index in front)


@given(st.lists(st.floats(-50, 250), min_size=1, max_size=30).map(sorted), st.floats(0.5, 30))
def test_names_are_pushed_apart_and_stay_inside(wanted: list[float], gap: float) -> None:
    places = spread_out(wanted, gap, 0, 200)
    gap = min(gap, 200 / max(1, len(wanted) - 1))
    assert all(above - below > gap - 1e-6 for below, above in itertools.pairwise(places))
    assert min(places) > -1e-6
    assert max(places) < 200 + 1e-6


def test_names_with_room_stay_where_they_are() -> None:
    assert spread_out([10, 50, 90], 12, 0, 100) == [10, 50, 90]
    assert spread_out([], 12, 0, 100) == []


def _boxes(axes: Axes) -> list[Bbox]:
    named = [text for text in axes.texts if isinstance(text, Annotation) and text.get_text()]
    return [text.get_window_extent() for text in named if text.get_fontstyle() != "italic"]


@pytest.mark.parametrize("draw", [plots.drift_by_size, plots.drift_by_decode])
def test_names_beside_points_do_not_overlap_and_are_in_the_picture(draw: object, rich: Results) -> None:
    assert callable(draw)
    figure = draw([rich], look(rich))
    boxes = _boxes(figure.axes[0])
    assert len(boxes) == len(rich.rows)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    for box in boxes:
        assert box.x0 > 0
        assert box.x1 < figure.bbox.width


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.key)
def test_every_plot_is_drawn_in_every_theme(plot: object, theme: Theme, rich: Results) -> None:
    figure = next(p for p in PLOTS if p == plot).draw(rich, look(rich, theme=theme))
    assert figure is not None
    svg = render_figure(figure, "svg")
    assert ET.fromstring(svg).tag == f"{SVG}svg"
    assert theme.paper.encode() in svg
    written = texts(svg)
    quantized = [r.name for r in rich.rows if r.quantized]
    assert [name for name in quantized if not any(name in text for text in written)] == []


def test_a_picture_is_a_png_and_the_same_each_time(rich: Results) -> None:
    first, second = (curves.layer_errors(rich, look(rich)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert render_figure(first, "png").startswith(b"\x89PNG\r\n\x1a\n")
    assert render_figure(first, "svg") == render_figure(second, "svg")


def test_the_dark_picture_is_the_light_one_in_the_dark_theme_s_colours(rich: Results) -> None:
    figure, dark = (plots.drift_by_size([rich], look(rich, theme=theme)) for theme in THEMES)
    assert figure is not None
    assert dark is not None
    turned, drawn = (
        re.findall(b'style="[^"]*"', svg)
        for svg in (recolor_svg(render_figure(figure, "svg"), DARK), render_figure(dark, "svg"))
    )
    assert turned == drawn
    assert drawn


def test_a_plot_without_data_is_left_out() -> None:
    plain = results(row("torch-fp16", 0.0001), row("variant", 0.02)).model_copy(update={"latency": None})
    drawn = [plot.key for plot in PLOTS if plot.draw(plain, look(plain))]
    assert drawn == ["drift-size"]
    missing = row("torch-fp16", 0).model_copy(update={"as_run": None})
    broken = row("variant", 0).model_copy(update={"as_run": Drift(nll=[], kl=[], top1=[], non_finite=3)})
    nothing = results(missing, broken)
    assert [plot.key for plot in PLOTS if plot.draw(nothing, look(nothing))] == []
    assert overview_plots([nothing, nothing], look(nothing)) == []
    assert "variant" in next(plot.caption(nothing) for plot in PLOTS if plot.key == "drift-size")


def test_a_front_is_drawn_where_there_is_one_and_explained_only_then(rich: Results) -> None:
    small = row("variant", 0.02).model_copy(update={"bits_per_weight": 3.0})
    beaten = results(row("torch-fp16", 0.0001), small)  # of equal divergence and speed, but smaller
    for plot, draws in zip(PLOTS[:2], (plots.drift_by_size, plots.drift_by_decode), strict=True):
        for run, fronts in ((rich, 1), (beaten, 0)):
            figure = draws([run], look(run))
            assert figure is not None
            stairs = [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]
            assert len(stairs) == fronts, plot.key
            assert ("Pareto front" in plot.caption(run)) == bool(fronts)
    for key, _, figure, caption in overview_plots([rich, rich], look(rich)):
        assert sum(line.get_drawstyle() == "steps-post" for line in figure.axes[0].lines) == 2, key
        assert "Each staircase is one file's Pareto front." in caption
    assert all("Pareto" not in caption for *_, caption in overview_plots([beaten, beaten], look(beaten)))


def test_a_dollar_or_a_tag_in_a_name_is_text(tmp_path: Path) -> None:
    name = "$x_y$ \\frac <b>&"
    run = results(row("torch-fp16", 0.0001), row("variant", 0.02).model_copy(update={"name": name}))
    figure = plots.drift_by_size([run], look(run))
    assert figure is not None
    svg = render_figure(figure, "svg")
    assert name in texts(svg)
    inlined = str(inline_svg(svg, "a", "a plot"))
    assert "$x_y$ \\frac &lt;b&gt;&amp;" in inlined
    assert name in [element.text for element in ET.fromstring(inlined).iter("text")]


def test_a_plot_in_a_page_has_no_style_no_colour_of_its_own_and_ids_of_its_own(rich: Results) -> None:
    figure = plots.drift_by_decode([rich], look(rich))
    assert figure is not None
    svg = inline_svg(render_figure(figure, "svg"), "one", 'a "quoted" <plot>')
    root = ET.fromstring(svg)
    assert root.get("aria-label") == 'a "quoted" <plot>'
    attributes = [(key, value) for element in root.iter() for key, value in element.attrib.items()]
    assert "style" not in {key for key, _ in attributes}
    assert [value for key, value in attributes if "#" in value and key not in ("href", "clip-path")] == []
    defined = {value for key, value in attributes if key == "id"}
    assert defined
    assert all(identity.startswith("one-") for identity in defined)
    assert {value[1:] for key, value in attributes if key == "href"} <= defined


def test_many_rows_get_a_legend_in_place_of_names_in_the_plot(rich: Results) -> None:
    many = [one.model_copy(update={"name": f"{one.name}-{turn}"}) for turn in ("a", "b") for one in rich.rows[3:8]]
    crowded = rich.model_copy(update={"rows": [*rich.rows, *many]})
    assert len(crowded.rows) > MOST_NAMES
    for plot in PLOTS[:-1]:
        figure = plot.draw(crowded, look(crowded))
        assert isinstance(figure, Figure)
        if plot.key != "layers":
            assert len(figure.legends) == 1
        assert all(len(_boxes(axes)) == 0 for axes in figure.axes) or not figure.legends


def test_a_row_has_one_style_everywhere_and_no_two_rows_have_the_same() -> None:
    files = [plausible.results("14m"), plausible.results("70m")]
    styles = row_styles(files)
    assert row_styles(files[::-1]) == styles
    assert len(set(styles.values())) == len(styles) == len(plausible.KINDS)
    assert all(styles[kind.name].filled == kind.quantized for kind in plausible.KINDS)
    names = [f"variant {index}" for index in range(30)]
    crowd = results(*(row("variant", 0).model_copy(update={"name": name}) for name in names))
    assert len(set(row_styles([crowd]).values())) == 30
    names += [f"variant {index}" for index in range(30, 300)]
    throng = results(*(row("variant", 0).model_copy(update={"name": name}) for name in names))
    assert len(row_styles([throng])) == 300


# Machado, Oliveira and Fernandes 2009: full protanomaly and deuteranomaly, in linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protan": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "deutan": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
}


def _linear(color: str) -> np.ndarray:
    part = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def _oklab(rgb: np.ndarray) -> np.ndarray:
    cones = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
    opponents = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])
    lab: np.ndarray = opponents @ np.cbrt(cones @ np.clip(rgb, 0, 1))
    return lab


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_colours_differ_to_everyone_and_stand_out(theme: Theme) -> None:
    for seen in DEFICIENCIES.values():
        for one, other in itertools.combinations(theme.colors, 2):
            assert np.linalg.norm(_oklab(seen @ _linear(one)) - _oklab(seen @ _linear(other))) > 0.09
    texts = (*theme.colors, *theme.neutrals, theme.ink, theme.muted)
    luminance = {color: float(_linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (*texts, theme.paper)}
    for color in texts:
        low, high = sorted([luminance[color], luminance[theme.paper]])
        assert (high + 0.05) / (low + 0.05) > 4.5


def test_a_row_has_one_hue_in_both_themes() -> None:
    for light, dark in zip(LIGHT.colors, DARK.colors, strict=True):
        hues = [math.atan2(lab[2], lab[1]) for lab in (_oklab(_linear(color)) for color in (light, dark))]
        assert abs((hues[0] - hues[1] + math.pi) % (2 * math.pi) - math.pi) < math.radians(5)


def test_ticks_are_numbers_as_people_write_them() -> None:
    values = (0.001, 0.3, 10, 20_000, 1e-7, 3e-7, 0)
    assert [tick_label(value) for value in values] == ["0.001", "0.3", "10", "20,000", "10⁻⁷", "3·10⁻⁷", "0"]


def test_a_long_name_keeps_its_ends_in_a_plot() -> None:
    short = shorten_name("onnx-int8-with-a-very-long-name-indeed-2")
    assert len(short) == LONGEST_NAME
    assert short.startswith("onnx-int8")
    assert short.endswith("indeed-2")


def test_settings_of_the_user_do_not_leak_in_nor_ours_out(rich: Results) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    reference = render_figure(curves.decode_by_context(rich, look(rich)) or Figure(), "svg")
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"axes.grid": True, "font.size": 20, "lines.linewidth": 9, "text.usetex": False}):
        again = render_figure(curves.decode_by_context(rich, look(rich)) or Figure(), "svg")
    assert again == reference
    with plot_settings():
        assert mpl.rcParams["text.parse_math"] is False
