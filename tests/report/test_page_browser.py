"""What a browser makes of the page."""

import itertools
from pathlib import Path

import pytest
from browser import Browser

from pythia_quant.bench.metrics import METRICS, Value
from pythia_quant.records.results import Results

CELLS = "[...document.querySelectorAll('#rows tbody tr:not(.group)')].map(r => r.cells[{}].dataset.value)"
HEAD = "document.querySelectorAll('#rows thead tr:last-child th')[{}]"


def test_a_click_sorts_all_rows_best_first_then_worst_first_then_brings_back(
    browser: Browser, runs: list[Results], written: Path
) -> None:
    measured = [
        (METRICS["kl"].value_of(one, run), METRICS["top1"].value_of(one, run)) for run in runs for one in run.rows
    ]
    browser.open(written, 1280)
    before = browser.run(CELLS.format(2))
    for column, sign, values in ((2, 1, [kl for kl, _ in measured]), (4, -1, [top1 for _, top1 in measured])):
        intervals = {repr(value.value): value for value in values if value}
        seen = []
        for _ in range(3):
            browser.run(f"{HEAD.format(column)}.querySelector('button').click()")
            shown = browser.run(CELLS.format(column))
            seen.append((browser.run(f"{HEAD.format(column)}.getAttribute('aria-sort')"), shown))
        (first, best_first), (second, worst_first), (third, _) = seen
        assert {first, second} == {"ascending", "descending"}
        assert third is None
        original = [repr(value.value) for value in values if value]
        assert sorted(best_first) == sorted(original)
        groups: list[list[str]] = []  # of values within error of their best: they stay in their order
        for value in sorted(original, key=lambda text: sign * float(text)):
            if not groups or not meet(intervals[groups[-1][0]], intervals[value]):
                groups.append([value])
            else:
                groups[-1].append(value)
        groups = [sorted(group, key=original.index) for group in groups]
        assert 1 < len(groups) < len(original)
        assert best_first == [value for group in groups for value in group]
        assert worst_first == [value for group in groups[::-1] for value in group]
        assert browser.run(CELLS.format(2)) == before
    assert browser.complaints == []


def meet(one: Value, other: Value) -> bool:
    return one.low <= other.high and other.low <= one.high


def test_a_button_brings_back_the_original_order(browser: Browser, written: Path) -> None:
    browser.open(written, 1280)
    before = browser.run(CELLS.format(2))
    hidden = "document.querySelector('#original-order').hidden"
    assert browser.run(hidden)
    browser.run(f"{HEAD.format(2)}.querySelector('button').click()")
    assert browser.run(CELLS.format(2)) != before
    assert not browser.run(hidden)
    browser.run("document.querySelector('#original-order').click()")
    assert browser.run(CELLS.format(2)) == before
    assert browser.run(hidden)
    assert browser.run("document.querySelector('#rows [aria-sort]')") is None


def test_a_row_and_what_plots_draw_of_it_are_highlighted_together(browser: Browser, written: Path) -> None:
    browser.open(written, 1280)
    over = "document.querySelector('{}').dispatchEvent(new PointerEvent('pointerover', {{bubbles: true}}))"
    lit = "[...new Set([...document.querySelectorAll('.lit')].map(e => e.dataset.row))]"
    kinds = "[...new Set([...document.querySelectorAll('.lit')].map(e => e.tagName))].sort()"
    assert browser.run(lit) == []
    browser.run(over.format("#rows tr[data-row=B5] td"))
    assert browser.run(lit) == ["B5"]
    assert browser.run(kinds) == ["DIV", "TR", "g"]
    assert browser.run("document.querySelectorAll('.first g.lit').length") >= 2
    browser.run(over.format("svg g[data-row=A3]"))
    assert browser.run(lit) == ["A3"]
    browser.run(over.format("h1"))
    assert browser.run(lit) == []


@pytest.mark.parametrize(("width", "fits"), [(390, False), (1280, True), (1920, True)])
def test_the_table_fits_a_desktop_screen_and_elsewhere_says_that_it_scrolls(
    browser: Browser, written: Path, width: int, fits: bool
) -> None:
    browser.open(written, width)
    box = "document.querySelector('.scroll')"
    assert (browser.run(f"{box}.scrollWidth - {box}.clientWidth") <= 1) == fits
    assert (browser.run("document.querySelector('.cue').offsetHeight") == 0) == fits
    assert browser.run("document.querySelector('#rows thead th:last-child .label').textContent") == "peak memory"
    browser.run("document.querySelector('#rows tbody:last-child tr:last-child').scrollIntoView({block: 'end'})")
    top = browser.run("document.querySelector('#rows thead').getBoundingClientRect().top")
    assert 0 <= top < 900 - browser.run("document.querySelector('#rows thead').offsetHeight")
    browser.run(f"{box}.scrollLeft = 5000; {box}.dispatchEvent(new Event('scroll'))")
    assert browser.run("document.querySelector('.cue').offsetHeight") == 0


def test_sorting_keeps_the_files_heads_first_and_what_was_not_measured_last(
    browser: Browser, nasty: Path, written: Path
) -> None:
    browser.open(written, 1280)
    gates = 5
    shown_heads = "[...document.querySelectorAll('.group')].filter(r => r.offsetHeight).length"
    assert browser.run(shown_heads) == 2
    for _ in range(2):
        browser.run(f"{HEAD.format(gates)}.querySelector('button').click()")
        values = browser.run(CELLS.format(gates))
        assert values.index("") == len([value for value in values if value])
        assert browser.run(shown_heads) == 2
        first_two = "[...document.querySelectorAll('#rows tbody tr')].slice(0, 2).every(r => r.matches('.group'))"
        assert browser.run(first_two)


def test_a_column_is_sorted_by_keyboard(browser: Browser, written: Path) -> None:
    browser.open(written, 1280)
    browser.run(f"{HEAD.format(0)}.querySelector('button').focus()")
    browser.press("Enter", 13)
    assert browser.run(f"{HEAD.format(0)}.getAttribute('aria-sort')") == "ascending"
    names = browser.run(CELLS.format(0))
    assert names == sorted(names)


@pytest.mark.parametrize(("width", "dark"), list(itertools.product((360, 800, 1600), (False, True))))
def test_nothing_overflows_and_nothing_is_loaded(
    browser: Browser, written: Path, nasty: Path, width: int, dark: bool
) -> None:
    for page in (written, nasty):
        browser.open(page, width, dark=dark)
        assert browser.run("document.documentElement.scrollWidth") <= width
        wide = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg, details:not([open])')"
        assert (
            browser.run(f"{wide} && e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 90))")
            == []
        )
        assert browser.requests == [page.resolve().as_uri()]
        assert browser.complaints == []


def test_the_page_follows_the_system_s_colours_and_its_plots_do(browser: Browser, written: Path) -> None:
    backgrounds, inks = [], []
    for dark in (False, True):
        browser.open(written, 1000, dark=dark)
        backgrounds.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        inks.append(browser.run("getComputedStyle(document.querySelector('figure svg text')).fill"))
    assert backgrounds == ["rgb(245, 246, 248)", "rgb(15, 18, 22)"]
    assert inks[0] != inks[1]


def test_the_first_column_stays_in_sight_on_a_phone(browser: Browser, written: Path) -> None:
    browser.open(written, 360)
    browser.run("document.querySelector('.scroll').scrollLeft = 500")
    box = "document.querySelector('#rows tbody tr:nth-child(3) {}').getBoundingClientRect().left"
    assert browser.run("document.querySelector('.scroll').scrollLeft") == 500
    assert 0 <= browser.run(box.format("th")) < 30
    assert browser.run(box.format("td")) < 0
