"""What a browser makes of the page of a study."""

import itertools
from pathlib import Path

import pytest
import sweep_tables as made
from browser import Browser

from pythia_quant.sweep.page import write_page

SHOWN = "[...document.querySelectorAll('#jobs tbody tr')].filter(r => !r.hidden)"
HEAD = "document.querySelectorAll('#jobs thead th')[{}]"
KL = 7


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("studies")
    other = [line | {"cpu": "<b>" * 40, "model": "x" * 300} for line in made.study(["410m"], [0])]
    tables = [("small study", made.study())]
    return [write_page(tables, folder / "one")[0], write_page([*tables, ("a" * 200, other)], folder / "two")[0]]


@pytest.mark.parametrize(("width", "dark"), list(itertools.product((390, 1280, 1920), (False, True))))
def test_nothing_overflows_and_nothing_is_loaded(browser: Browser, pages: list[Path], width: int, dark: bool) -> None:
    for page in pages:
        browser.open(page, width, dark=dark)
        assert browser.run("document.documentElement.scrollWidth") <= width
        wide = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg')"
        assert browser.run(f"{wide} && e.getBoundingClientRect().right > {width} + 1).map(e => e.className)") == []
        assert browser.requests == [page.resolve().as_uri()]
        assert browser.complaints == []


def test_jobs_are_sorted_by_number_and_what_has_none_comes_last(browser: Browser, pages: list[Path]) -> None:
    browser.open(pages[0], 1280)
    texts = f"{SHOWN}.map(r => r.cells[{KL}].firstChild?.textContent ?? '')"
    before = browser.run(texts)
    browser.run(f"{HEAD.format(KL)}.querySelector('button').click()")
    numbers = [text and float(text.replace(",", "").lstrip("<")) for text in browser.run(texts)]
    assert numbers[-5:] == [""] * 5
    assert numbers[:-5] == sorted(numbers[:-5])
    assert browser.run(f"{HEAD.format(KL)}.getAttribute('aria-sort')") == "ascending"
    browser.run("document.querySelector('.original-order').click()")
    assert browser.run(texts) == before


def test_jobs_are_found_by_words_and_by_choice(browser: Browser, pages: list[Path]) -> None:
    browser.open(pages[0], 1280)
    choose = "(() => {{ const e = document.querySelector('{}'); e.value = '{}'; e.dispatchEvent(new Event('{}')); }})()"
    said = "document.querySelector('#shown').textContent"
    assert browser.run(said) == "192 jobs"
    browser.run(choose.format("select[data-column=variant]", "gptq-int3", "change"))
    assert browser.run(said) == "48 of 192 jobs"
    browser.run(choose.format("#find", "160m-SEED3 singular", "input"))
    assert browser.run(said) == "1 of 192 jobs"
    assert browser.run(f"{SHOWN}.map(r => r.cells[0].textContent)") == ["EleutherAI/pythia-160m-seed3@step64000"]
    browser.run(choose.format("#find", "nothing like it", "input"))
    assert browser.run(f"{SHOWN}.length") == 0


def test_a_variant_is_highlighted_in_all_plots(browser: Browser, pages: list[Path]) -> None:
    browser.open(pages[0], 1280)
    browser.run(
        "document.querySelector('.card li[data-row]').dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))"
    )
    assert browser.run("[...document.querySelectorAll('figure svg')].every(s => s.querySelector('.lit'))")
    assert browser.run("new Set([...document.querySelectorAll('.lit')].map(e => e.dataset.row)).size") == 1
