import json
import math
from pathlib import Path
from typing import Any

import pytest
from measured import results, row

from pythia_quant.bench.metrics import METRICS, outdated
from pythia_quant.errors import BenchmarkError
from pythia_quant.results import GateOutcome, Results, load_results, save_results

VERSION_1 = Path(__file__).parent / "data" / "results-1.json"


def test_a_file_of_version_1_loads_and_gives_the_values_it_gave() -> None:
    before, after = json.loads(VERSION_1.read_text()), load_results(VERSION_1)
    assert after.schema_version == 3
    assert (after.machine.cpu, after.machine.cores) == ("AMD EPYC", before["cores"])
    assert "avx512_vnni" in after.machine.instruction_sets
    row = after.row("onnx-int8")
    speed = next(row for row in before["rows"] if row["name"] == "onnx-int8")["speed"]
    decode = METRICS["decode"].of(row, after)
    assert decode is not None
    assert decode.value == 1e3 * sorted(speed["decode_seconds"])[5]
    assert "protocol windows v1" in outdated(after)
    assert METRICS["kl_median"].of(row, after) is None


def changed(tmp_path: Path, **change: Any) -> Path:
    path = tmp_path / "results.json"
    save_results(results(row("torch-fp16", 0)), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return path


def test_a_newer_version_and_an_unknown_field_are_refused_with_the_version_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"schema version 4, written by pythia-quant 9.*reads up to 3"):
        load_results(changed(tmp_path, schema_version=4, tool="pythia-quant 9"))
    with pytest.raises(BenchmarkError, match=r"the field colour is unknown \(schema version 3, written by pq"):
        load_results(changed(tmp_path, colour="red", tool="pq"))


def test_infinite_values_survive_the_file(tmp_path: Path) -> None:
    gate = GateOutcome(
        variant="torch-fp16", gate="max_kl", limit=1, value=math.inf, low=-math.inf, high=math.inf, outcome="failed"
    )
    path = tmp_path / "results.json"
    kept: Results = results(row("torch-fp16", 0)).model_copy(update={"gates": [gate]})
    save_results(kept, path)
    assert load_results(path) == kept
