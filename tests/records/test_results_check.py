import json
import math
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from measured import results, row
from mutations import COUNT, as_json, json_mutations, refused_or_read

from pythia_quant.bench.compare import compare_results
from pythia_quant.core.console import PrintableConsole
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.records.results import load_results
from pythia_quant.report.files import read_files
from pythia_quant.report.tables import render_table
from pythia_quant.report.terminal import ResultsTable, changes_data, changes_table

VERSION_1 = Path(__file__).parents[1] / "data" / "results-1.json"


def small() -> dict[str, Any]:
    """Return a result file with few samples, so that most mutations meet something else than a sample."""
    whole = results(row("torch-fp16", 0), row("variant", 0.01, 0.001))
    data: dict[str, Any] = json.loads(whole.model_dump_json())
    data["protocol"]["windows"], data["reference_nll"] = 3, [3.0, 3.1, 2.9]
    for one in data["rows"]:
        for key in ("nll", "kl", "top1"):
            one["as_run"][key] = one["as_run"][key][:3]
        one["speeds"][0]["processes"][0]["decode"][0]["seconds"] = [0.01, 0.02]
    return data


def small_version_1() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(VERSION_1.read_text())
    data["rows"] = [one for one in data["rows"] if one["name"] in ("torch-fp16", "onnx-int8")]
    data["gates"] = [gate for gate in data["gates"] if gate["variant"] == "onnx-int8"]
    return data


def use(path: Path) -> None:
    """Do with a result file all that does not draw."""
    found = load_results(path)
    files = read_files([path])
    for form in ("markdown", "csv", "json"):
        render_table(files, form)
    console = PrintableConsole(file=StringIO(), width=100)
    console.print(ResultsTable(found))
    comparison = compare_results(found, found)
    console.print(changes_table(comparison, everything=True))
    changes_data(comparison)


@pytest.mark.parametrize("make", [small, small_version_1])
def test_damaged_result_files_are_shown_or_refused(tmp_path: Path, make: Callable[[], dict[str, Any]]) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(as_json(make()))
    use(path)
    counts = refused_or_read(load_results, path, json_mutations(make(), COUNT // 2))
    assert min(counts["read"], counts["refused"]) > COUNT // 50
    # Fewer: rich takes some milliseconds for a table.
    assert refused_or_read(use, path, json_mutations(make(), COUNT // 50, seed=1))["read"] > 0


def edited(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    data = small()
    edit(data)
    return data


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(baseline="zz"), "baseline: there is no row called 'zz'"),
        (lambda data: data["rows"].clear(), "baseline: there is no row"),
        (lambda data: data["rows"].append(data["rows"][1]), "rows.2.name: another row is called 'variant'"),
        (lambda data: data["rows"][1].update(name="a\x1b[31m"), "rows.1.name: .*cannot be the name"),
        (lambda data: data["rows"][1]["as_run"].update(nll=[math.nan] * 3), "as_run.nll.0: nan is not possible"),
        (lambda data: data["rows"][1]["as_run"].update(nll=[1.0]), "as_run.nll: has 1 values; .* is 3"),
        (lambda data: data.update(reference_nll=[]), "reference_nll: has 0 values"),
        (lambda data: data["text"].update(bytes=0), "text.bytes: 0 is not possible"),
        (lambda data: data["protocol"].update(windows=1), "protocol.windows: 1 is not possible"),
        (lambda data: data["rows"][0]["speeds"][0].update(processes=[]), "speeds.0.processes: is empty"),
        (lambda data: data["rows"][0]["speeds"][0]["processes"][0]["decode"].clear(), "lengths of latency.contexts"),
        (
            lambda data: data["rows"][0]["speeds"][0]["processes"][0]["decode"][0].update(seconds=[0.0]),
            "decode.0.seconds.0: 0.0 is not possible",
        ),
        (lambda data: data["latency"].update(prompts=[]), "latency.prompts: is empty"),
        (lambda data: data.update(latency=None), "speeds: speed without a protocol"),
        (lambda data: data["rows"][1]["as_run"].update(kl_histogram=[1]), "kl_histogram: has 1 values"),
    ],
)
def test_what_nothing_measured_is_refused_by_its_key(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(as_json(edited(edit)))
    with pytest.raises(BenchmarkError, match=message):
        load_results(path)
