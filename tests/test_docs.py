"""The pages of docs/: each is reached, every link leads somewhere, and what they list is complete."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from documents import DOCS, ROOT, blocks
from markdown_it import MarkdownIt
from markdown_it.token import Token

PAGES = sorted(DOCS.glob("*.md"))
OTHERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("benchmarks/README.md")]
OTHERS += sorted(ROOT.glob("pythia_quant/formats/*/README.md"))
CODE = sorted((ROOT / "pythia_quant").rglob("*.py"))
TESTS = [path for folder in ("tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def links(page: Path) -> list[str]:
    children = [child for token in tokens(page) for child in token.children or ()]
    targets = [child.attrs.get("href") or child.attrs.get("src") for child in children]
    return [str(target) for target in targets if target and not re.match(r"[a-z]+:", str(target))]


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub and the site give to the headings."""
    headings = [text.content for mark, text in zip(tokens(page), tokens(page)[1:], strict=False) if mark.tag[:1] == "h"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def faults(page: Path) -> list[str]:
    found = []
    for link in links(page):
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert faults(page) == []


def test_links_that_lead_nowhere_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("## Why is 4-bit 10 bits?\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#why-is-4-bit-10-bits) [b](there.md#nothing) [c](gone.md) [d](#me)\n\n| [e](x) |\n|-|\n"
    )
    assert faults(page) == ["there.md#nothing", "gone.md", "#me", "x"]


def test_every_page_is_in_the_navigation() -> None:
    trees = blocks((DOCS / "index.md").read_text(), r"{toctree}")
    names = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(names) == [page.stem for page in PAGES if page.stem != "index"]


def variables(paths: list[Path], pattern: str) -> set[str]:
    return {name for path in paths for name in re.findall(rf"\b({pattern})\b", path.read_text())}


def test_every_environment_variable_is_listed() -> None:
    listed = set(re.findall(r"`([A-Z_]+)`", (DOCS / "environment.md").read_text()))
    assert variables(CODE, r"(?:PYTHIA_QUANT|HF)_[A-Z_]+[A-Z]") - listed == set()
    assert variables([*TESTS, ROOT / "Makefile"], r"PYTHIA_QUANT_[A-Z_]+[A-Z]") - listed == set()
    assert {name for name in listed if name.startswith("PYTHIA_QUANT_")} <= variables(
        [*CODE, *TESTS], r"PYTHIA_QUANT_\w+"
    )


def test_every_exit_code_is_listed() -> None:
    from pythia_quant.cli.compare import WORSE
    from pythia_quant.cli.gates import GATE_FAILED, GATE_UNDECIDED
    from pythia_quant.cli.main import CLOSED_PIPE, SIGNALLED

    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", (DOCS / "environment.md").read_text(), re.MULTILINE)]
    ends = [SIGNALLED + number for number in (1, 2, 15)]
    assert sorted(listed) == sorted({0, 1, 2, WORSE, GATE_FAILED, GATE_UNDECIDED, *ends, CLOSED_PIPE})
