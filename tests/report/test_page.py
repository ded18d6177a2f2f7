"""What the page says, that it is safe, and that a browser shows it."""

import base64
import hashlib
import html
import itertools
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import plausible
import pytest
from browser import Browser, chromium
from measured import results, row

from pythia_quant.bench.gates import describe_gate
from pythia_quant.bench.metrics import METRICS, Value
from pythia_quant.records.results import Results
from pythia_quant.report.numbers import format_value
from pythia_quant.report.write import write_report

NASTY = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x_y$", "a|b", "'; alert(1) //", "{{ 7*7 }}"]


class Page(HTMLParser):
    """Every tag with its attributes, the text of the cells of each table, and all text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[list[list[str]]] = []
        self.texts: list[str] = []
        self._open = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag == "table":
            self.cells.append([])
        elif tag == "tr":
            self.cells[-1].append([])
        elif tag in ("td", "th"):
            self.cells[-1][-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._open:
            self.cells[-1][-1][-1] += f" {data.strip()} "


@pytest.fixture(scope="module")
def runs() -> list[Results]:
    return [plausible.results("14m"), plausible.results("160m", plausible.GRAVITON, "step3000")]


@pytest.fixture(scope="module")
def written(runs: list[Results], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    paths = [folder / f"{index}.json" for index in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        path.write_text(run.model_dump_json())
    return write_report(paths, folder / "report")


@pytest.fixture(scope="module")
def source(written: Path) -> str:
    return written.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nasty")
    rows = [
        row("variant", 0.01 * (i + 1)).model_copy(update={"name": n, "runtime": n, "notes": [n]})
        for i, n in enumerate(NASTY)
    ]
    run = results(row("torch-fp16", 0.0001), *rows)
    run = run.model_copy(update={
        "source": run.source.model_copy(update={"model": NASTY[0], "revision": NASTY[1], "commit": NASTY[0]}),
        "text": run.text.model_copy(update={"name": NASTY[1]}),
        "machine": run.machine.model_copy(
            update={"cpu": NASTY[0], "system": NASTY[1], "versions": {NASTY[1]: NASTY[0]}}
        ),
        "tool": NASTY[0],
    })  # fmt: skip
    path = folder / "results.json"
    path.write_text(run.model_dump_json())
    return write_report([path], folder / "report")


def test_every_value_of_every_row_is_on_the_page(runs: list[Results], source: str) -> None:
    tables = Page(source).cells
    for number, run in enumerate(runs):
        lines = {line[0].split("  ")[0].strip(): line[1:] for line in tables[2 + 3 * number]}
        for metric in METRICS.values():
            for one, cell in zip(run.rows, lines[metric.label], strict=True):
                text, interval = format_value(metric, one, metric.value_of(one, run))
                assert cell.split() == f"{text} {interval}".split(), (metric.key, one.name)


def test_rows_of_all_files_are_in_one_table_each_with_protocol_and_machine(runs: list[Results], source: str) -> None:
    lines = [line for line in Page(source).cells[0][2:] if len(line) > 1]
    assert len(lines) == sum(len(run.rows) for run in runs)
    measured = [(run, one) for run in runs for one in run.rows]
    for line, (run, one) in zip(lines, measured, strict=True):
        assert one.name in line[0]
        assert format_value(METRICS["kl"], one, METRICS["kl"].value_of(one, run)).text == line[2].split()[0]
        assert line[-1].split()[0] == format_value(METRICS["memory"], one, METRICS["memory"].value_of(one, run)).text
    heads = [line[0] for line in Page(source).cells[0] if len(line) == 1]
    for head, run in zip(heads, runs, strict=True):
        assert "windows v2" in head
        assert "latency v2" in head
        assert run.machine.cpu in head
    assert "B · pythia-160m @ step3000" in lines[-1][0]


def test_what_the_numbers_belong_to_is_said(runs: list[Results], source: str) -> None:
    text = " ".join(Page(source).texts)
    for run in runs:
        for said in (
            run.source.model, run.source.commit, run.text.name, run.text.sha256, run.machine.cpu, run.machine.system,
            *run.machine.instruction_sets, *run.machine.versions.values(), *run.source.sha256.values(),
            *(describe_gate(gate) for gate in run.gates), *(note for one in run.rows for note in one.notes),
            "windows, version 2: 48 windows of 2,048 tokens", "latency, version 2", "lambada-openai, version 1",
            "other programs took 9 %" if run.machine is plausible.EPYC else "8 cores",
        ):  # fmt: skip
            assert said is not None
            assert said in text


def test_gates_and_the_baseline_are_marked_in_words(runs: list[Results], source: str) -> None:
    lines = [line for line in Page(source).cells[0][2:] if len(line) > 1]
    by_name = {line[0].split()[0]: line for line in lines[: len(runs[0].rows)]}
    assert "baseline" in by_name["torch-fp16"][0]
    assert "baseline" not in by_name["gptq-int4"][0]
    assert "disturbed" in by_name["torch-bf16"][0]
    assert "remark" in by_name["bnb-nf4"][0]
    assert source.count("Disturbed while their speed was measured: torch-bf16.") == 4 * len(runs)
    gates = 1 + 4
    counts = {
        outcome: sum(g.outcome == outcome for g in runs[0].gates if g.variant == "bnb-nf4")
        for outcome in ("passed", "failed", "undecided")
    }
    for outcome, count in counts.items():
        assert (f"{count} {outcome}" in by_name["bnb-nf4"][gates]) == (count > 0)


def test_nothing_is_loaded_and_only_our_own_style_and_script_are_allowed(source: str) -> None:
    page = Page(source)
    links = [
        attributes[key]
        for _, attributes in page.tags
        for key in ("src", "href", "srcset", "action")
        if key in attributes
    ]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)
    assert not {"style", "onclick", "onload", "onerror"} & {key for _, attributes in page.tags for key in attributes}
    (policy,) = (
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_where_the_files_lay_is_not_told(written: Path, source: str) -> None:
    assert str(written.parents[1]) not in source
    assert "0.json, sha256" in source


def test_links_go_somewhere_and_ids_are_unique(source: str) -> None:
    tags = Page(source).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for _, attributes in tags if attributes.get("href", "").startswith("#")}
    clips = set(re.findall(r"url\(#([^)]+)\)", source))
    assert links | clips <= set(ids)
    assert {"file-A", "file-B"} <= links


def test_what_others_wrote_is_text(nasty: Path) -> None:
    source = nasty.read_text(encoding="utf-8")
    page = Page(source)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    text = " ".join(page.texts)
    for name in NASTY:
        assert name in text
        assert (
            html.escape(name, quote=False) in source
            or html.escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in source
        )
    for plot in (nasty.parent / "plots").glob("*.svg"):
        assert "<script" not in plot.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium to show the page in")
    with chromium(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


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


def test_points_have_tooltips_with_their_numbers(runs: list[Results], source: str) -> None:
    for letter, run in zip("AB", runs, strict=True):
        for place, one in enumerate(run.rows):
            titles = re.findall(f'<g data-row="{letter}{place}"[^>]*><title>(.*?)</title>', source, re.DOTALL)
            assert len(titles) > 10
            text = format_value(METRICS["decode"], one, METRICS["decode"].value_of(one, run)).text
            assert all(title.startswith(f"{one.name}\n") and f"decode {text} " in title for title in titles)


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
