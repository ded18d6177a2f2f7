"""Pages that tests read: of two plausible results, and of one whose texts try to break out."""

from html.parser import HTMLParser
from pathlib import Path

import plausible
import pytest
from measured import results, row

from pythia_quant.records.results import Results
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


@pytest.fixture(scope="session")
def runs() -> list[Results]:
    return [plausible.results("14m"), plausible.results("160m", plausible.GRAVITON, "step3000")]


@pytest.fixture(scope="session")
def written(runs: list[Results], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    paths = [folder / f"{index}.json" for index in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        path.write_text(run.model_dump_json())
    return write_report(paths, folder / "report")


@pytest.fixture(scope="session")
def source(written: Path) -> str:
    return written.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
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
