"""Results as a mapping of rows to values, and as a data frame."""

from __future__ import annotations

import csv
import math
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from measured import results as record
from measured import row
from program import succeed

import pythia_quant as pq
from pythia_quant.bench.metrics import METRICS
from pythia_quant.library.results import with_values


@pytest.fixture(scope="module")
def measured(whole_run: Path) -> pq.Results:
    return pq.Results.load(whole_run / "out/tiny/local")


def test_a_value_is_that_of_its_metric(measured: pq.Results) -> None:
    expected = METRICS["kl"].value_of(measured.row("onnx-int8"), measured)
    kl = measured["onnx-int8"]["kl"]
    assert expected
    assert (kl.value, kl.low, kl.high) == tuple(expected)
    assert (kl.unit, kl.better, kl.interval, kl.protocol) == ("mnat", "lower", "95 %", "windows v2")
    assert float(kl) == kl.value
    assert list(measured["onnx-int8"]) == [
        key for key, metric in METRICS.items() if metric.value_of(measured.row("onnx-int8"), measured)
    ]
    assert len(measured["torch-fp16"]) < len(measured["onnx-int8"]), "the source's weights have no drift"
    assert "onnx-int8" in measured
    assert "onnx" not in measured


def test_a_name_that_is_not_there_is_one_error_and_a_key_error(measured: pq.Results) -> None:
    with pytest.raises(pq.UnknownNameError, match=r"there is no row 'onnx-int4'\n  did you mean 'onnx-int8'"):
        measured["onnx-int4"]
    with pytest.raises(KeyError, match=r"'kll' is no metric\n  did you mean 'kl'"):
        measured["onnx-int8"]["kll"]
    with pytest.raises(pq.PythiaQuantError, match="'kl_weights' was not measured for torch-fp16"):
        measured["torch-fp16"]["kl_weights"]
    assert measured["torch-fp16"].get("kl_weights") is None


def test_a_frame_has_the_lines_of_the_csv_file(whole_run: Path, measured: pq.Results, tmp_path: Path) -> None:
    succeed("report", whole_run / "out/tiny/local", "--format", "csv", "--out", tmp_path)
    with next(tmp_path.glob("*.csv")).open(newline="") as file:
        lines = list(csv.DictReader(file))
    frame = measured.to_frame()
    assert list(frame.columns)[:5] == ["row", "metric", "value", "low", "high"]
    assert set(frame.columns) == set(lines[0])
    assert list(zip(frame["row"], frame["metric"], strict=True)) == [(line["row"], line["metric"]) for line in lines]
    assert all(math.isclose(value, float(line["value"])) for value, line in zip(frame["value"], lines, strict=True))
    pivot = frame.pivot(index="row", columns="metric", values="value")
    assert pivot.loc["onnx-int8", "kl"] == measured["onnx-int8"]["kl"].value


def test_without_pandas_the_error_says_what_to_install(measured: pq.Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(pq.ArgumentError, match=r"needs pandas .*\n  pip install pandas"):
        measured.to_frame()


def test_results_are_saved_and_read_back(measured: pq.Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    measured.save(str(path))
    again = pq.Results.load(str(tmp_path))
    assert isinstance(pq.load_results(str(path)), pq.Results)
    assert again == measured
    assert again["gptq-int4"]["kl"] == measured["gptq-int4"]["kl"]
    measured.save(path)
    assert len(list(tmp_path.glob("results-*.json"))) == 1, "the earlier file stays"


class Cells(HTMLParser):
    """Collects the text of cells, and refuses markup that names could have brought in."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.feed(html)

    @property
    def stripped(self) -> list[str]:
        return [text.strip() for text in self.texts]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        assert tag in ("table", "thead", "tbody", "tr", "th", "td", "p", "strong")
        if tag in ("th", "td"):
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data


def test_they_are_shown_in_a_line_and_in_notebooks_as_a_table(measured: pq.Results) -> None:
    assert len(repr(measured)) < 250
    assert "\n" not in str(measured)
    assert "onnx-int8" in repr(measured)
    assert str(measured["onnx-int8"]["kl"]).startswith("kl: ")
    assert "\n  kl: " in repr(measured["onnx-int8"])
    cells = Cells(measured._repr_html_()).stripped
    assert {"KL, mnat ↓", "onnx-int8", "torch-fp16 (baseline)"} <= set(cells)


def test_names_are_no_markup_in_notebooks() -> None:
    hostile = with_values(record(row("<script>alert(1)</script>", 0), row("a|*b*", 0.01)))
    assert "<script>alert(1)</script> (baseline)" in Cells(hostile._repr_html_()).stripped
