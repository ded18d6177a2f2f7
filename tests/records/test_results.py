import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from measured import results, row
from rich.console import Console

from pythia_quant.bench.metrics import METRICS, outdated, outdated_sizes
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.records.results import GateOutcome, Results, load_results, save_results
from pythia_quant.report.files import read_files
from pythia_quant.report.tables import render_table
from pythia_quant.report.terminal import ResultsTable

VERSION_1 = Path(__file__).parents[1] / "data" / "results-1.json"


def test_a_file_of_version_1_loads_and_gives_the_values_it_gave() -> None:
    before, after = json.loads(VERSION_1.read_text()), load_results(VERSION_1)
    assert (after.schema_version, after.size_version) == (4, 1)
    assert (after.machine.cpu, after.machine.cores) == ("AMD EPYC", before["cores"])
    assert "avx512_vnni" in after.machine.instruction_sets
    row = after.row("onnx-int8")
    speed = next(row for row in before["rows"] if row["name"] == "onnx-int8")["speed"]
    decode = METRICS["decode"].value_of(row, after)
    assert decode is not None
    assert decode.value == 1e3 * sorted(speed["decode_seconds"])[5]
    assert "protocol windows v1" in outdated(after)
    assert "Sizes were counted by version 1" in outdated_sizes(after)
    assert METRICS["kl_median"].value_of(row, after) is None


def test_a_file_of_version_3_has_sizes_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    save_results(results(row("torch-fp16", 0)), path)
    data = json.loads(path.read_text())
    assert (data["schema_version"], data.pop("size_version")) == (4, 2)
    path.write_text(json.dumps(data | {"schema_version": 3}))
    before = load_results(path)
    assert (before.protocol.version, before.size_version) == (2, 1)
    (file,) = read_files([path])
    printed = StringIO()
    Console(file=printed, width=100).print(ResultsTable(before))
    for shown in (printed.getvalue(), render_table([file], "markdown")):
        assert "Sizes were counted by version 1" in " ".join(shown.split())
    assert "size v1" in render_table([file], "csv")


def changed(tmp_path: Path, **change: Any) -> Path:
    path = tmp_path / "results.json"
    save_results(results(row("torch-fp16", 0)), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return path


def test_a_newer_version_and_an_unknown_field_are_refused_with_the_version_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"schema version 5, written by pythia-quant 9.*reads up to 4"):
        load_results(changed(tmp_path, schema_version=5, tool="pythia-quant 9"))
    with pytest.raises(BenchmarkError, match=r"the field colour is unknown \(schema version 4, written by pq"):
        load_results(changed(tmp_path, colour="red", tool="pq"))


def test_infinite_values_survive_the_file(tmp_path: Path) -> None:
    gate = GateOutcome(
        variant="torch-fp16", gate="max_kl", limit=1, value=math.inf, low=-math.inf, high=math.inf, outcome="failed"
    )
    path = tmp_path / "results.json"
    kept: Results = results(row("torch-fp16", 0)).model_copy(update={"gates": [gate]})
    save_results(kept, path)
    assert load_results(path) == kept
