import json
import logging
import warnings
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st
from measured import results, row
from rich.table import Table
from rich.text import Text

from pythia_quant.core.console import PrintableConsole
from pythia_quant.core.progress import Steps
from pythia_quant.core.text import Redacting, printable, printable_json, short
from pythia_quant.report.figures import PLOTS
from pythia_quant.report.files import ResultFile
from pythia_quant.report.page import Illustrations, render_page
from pythia_quant.report.style import render_figure
from pythia_quant.report.tables import render_table
from pythia_quant.report.terminal import ResultsTable
from pythia_quant.report.theme import LIGHT, Look, row_styles

HIDDEN = "\x00\x07\x08\x0b\x0d\x1b\x7f\x85\x9b\u200e\u200f\u2028\u202e\u2066\ufeff\ufffe"
SIGNS = [*HIDDEN, "a", "=", "-", "|", "$", "<b>", "[red]", "[/x]", " ", "\u00e9"]
HOSTILE = st.lists(st.sampled_from(SIGNS), min_size=1).map("".join)


def hidden_in(text: str) -> set[str]:
    return set(text) & set(HIDDEN)


@given(st.text())
def test_what_is_printable_has_nothing_to_escape_and_keeps_the_rest(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not hidden_in(shown)
    assert printable(shown) == shown
    if not hidden_in(text) and text.isprintable():
        assert shown == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_means_the_same(text: str) -> None:
    shown = printable_json(json.dumps({"key": text}, ensure_ascii=False))
    assert not hidden_in(shown)
    assert json.loads(shown) == {"key": text}


def test_any_value_has_a_short_form() -> None:
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    for value in (deep, 10**10_000, "x" * 10**6, ["y" * 1000], None, "\x1b"):
        assert len(short(value)) <= 80
        assert not hidden_in(short(value))


@settings(deadline=None, max_examples=6)
@given(HOSTILE)
def test_no_output_holds_a_control_character_of_any_text(hostile: str) -> None:
    whole = results(row("torch-fp16", 0))
    measured = whole.model_copy(
        update={
            "rows": [whole.rows[0].model_copy(update={"notes": [hostile], "runtime": hostile})],
            "text": whole.text.model_copy(update={"name": hostile}),
            "source": whole.source.model_copy(update={"model": hostile, "revision": hostile}),
            "machine": whole.machine.model_copy(update={"cpu": hostile, "system": hostile, "versions": {hostile: "1"}}),
            "notes": [hostile],
        }
    )
    file = ResultFile("A", hostile, hostile, Path(hostile.replace("\0", "")), hostile, measured)
    screen = StringIO()
    console = PrintableConsole(file=screen, width=100, force_terminal=False)
    console.print(ResultsTable(measured))
    table = Table()
    table.add_column(Text(hostile))
    table.add_row(Text(hostile))
    console.print(table)
    outputs = [screen.getvalue(), render_page([file], row_styles([measured]), [], [Illustrations([], [])])]
    outputs += [render_table([file], form) for form in ("markdown", "csv", "json")]
    assert [hidden_in(output) for output in outputs] == [set()] * 5


def test_markup_in_a_name_is_text_in_the_table_and_in_the_steps() -> None:
    name = "[/x][red]$"
    whole = results(row("torch-fp16", 0), row(name, 1))
    whole = whole.model_copy(update={"source": whole.source.model_copy(update={"model": name})})
    screen = StringIO()
    console = PrintableConsole(file=screen, width=100, force_terminal=True, color_system=None)
    console.print(ResultsTable(whole))
    with Steps(1, console) as steps, steps.step(name) as progress:
        progress.step(name, 0, 2)
    title, *_ = screen.getvalue().splitlines()
    assert title.startswith(f"{name} (main): ")
    assert any(line.startswith(f"{name} ") for line in screen.getvalue().splitlines()[1:])
    assert f"{name} 1/2" in screen.getvalue()


def test_names_in_plots_are_text_whatever_they_hold() -> None:
    """Of no mark in SVG, of TeX to matplotlib, of what is not a character to XML; nor is a missing glyph told of."""
    name = "$\\frac{$\ufffe<&\u4e16"
    whole = results(row("torch-fp16", 0), row(name, 0.1))
    look = Look(LIGHT, row_styles([whole]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = [figure for plot in PLOTS if (figure := plot.draw(whole, look))]
        drawn = [ElementTree.fromstring(render_figure(figure, "svg")) for figure in figures]
    assert drawn
    for svg in drawn:
        assert printable(name) in [element.text for element in svg.iter() if element.tag.endswith("text")]


def test_what_libraries_log_is_printable() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s says \x1b[2J", ("\u202e",), None)
    assert Redacting().filter(record)
    assert record.getMessage() == "\\u202e says \\x1b[2J"
