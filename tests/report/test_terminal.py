from io import StringIO
from pathlib import Path

import pytest
from measured import lambada_run, results, row
from rich.console import Console

from pythia_quant.bench.gates import evaluate_gates
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.recipe.measurement import GateSettings
from pythia_quant.records.results import Drift, Results, load_results, save_results
from pythia_quant.report.facts import remarks
from pythia_quant.report.plots import plot_results
from pythia_quant.report.terminal import print_results


def printed(measured: Results) -> str:
    stream = StringIO()
    print_results(measured, Console(file=stream, width=100))
    return stream.getvalue()


def measured() -> Results:
    return results(row("torch-fp16", 0.0001), row("torch-fp32", 0), row("variant", 0.02, noise=0.01, decode=0.004))


def test_the_table_fits_100_columns_with_its_numbers_whole() -> None:
    table = printed(measured())
    assert max(map(len, table.splitlines())) <= 100
    assert "…" not in table
    (line,) = (line for line in table.splitlines() if line.startswith("variant"))
    # exp(0.02) - 1 = 2.02 %; the noise alternates from run to run, so its standard error is 0.01 / sqrt(7); t is 2.365.
    assert line.split()[:5] == ["variant", "+2.02±0.91", "0", "10.00", "99.00±0.09"]
    assert line.split()[8:10] == ["4.20±0.16", "2.50±0.20"]


def test_a_long_name_is_folded_and_no_number_is_cut() -> None:
    name = "a-variant-with-a-name-of-many-words"
    long = row("variant", 0.02, noise=0.01, decode=0.004).model_copy(update={"name": name})
    table = printed(results(row("torch-fp16", 0), row("torch-fp32", 0), long))
    assert "…" not in table
    assert "+2.02±0.91" in table
    assert max(map(len, table.splitlines())) <= 100


def test_what_concerns_all_rows_is_said_in_the_table_and_on_the_page() -> None:
    noted = measured().model_copy(update={"notes": ["The model is untrained."]})
    assert "The model is untrained." in printed(noted)
    assert remarks(noted) == [("m", "The model is untrained")]


def test_published_numbers_are_told_and_a_baseline_far_from_them_is_warned_of() -> None:
    near = printed(lambada_run(1_720, 40.0))
    assert "LAMBADA           published: accuracy 32.84 % ± 1.28, perplexity 38.065 ± 2.81; torch-fp16 agrees" in near
    assert "LAMBADA of torch-fp16 is not as published" not in near
    far = printed(run := lambada_run(1_400, 40.0))
    assert "torch-fp16 does not agree" in " ".join(far.split())
    assert "LAMBADA of torch-fp16 is not as published of EleutherAI/pythia-160m" in far
    ((name, warning),) = remarks(run)
    assert name == "torch-fp16"
    assert warning.endswith("or the weights are damaged")


def test_a_gate_that_did_not_pass_is_explained() -> None:
    run = measured()
    gates = evaluate_gates(run, {"variant": GateSettings(max_ppl_drift=2.1, min_top1=50)})
    table = printed(run.model_copy(update={"gates": gates}))
    assert "open" in table
    assert "Gate max_ppl_drift 2.1 % of variant undecided: 2.02" in table
    assert "windows would decide" in " ".join(table.split())


def test_fp16_that_is_not_finite_is_said_and_gives_no_floor(tmp_path: Path) -> None:
    broken = row("torch-fp16", 0).model_copy(update={"as_run": Drift(nll=[], kl=[], top1=[], non_finite=7)})
    run = results(broken, row("torch-fp32", 0), row("variant", 0.02)).model_copy(update={"baseline": "torch-fp32"})
    table = printed(run)
    assert "not finite at 7 positions: the baseline is torch-fp32" in table
    assert not any(line.startswith("fp16 floor") for line in table.splitlines())
    plot_results(run, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").stat().st_size > 5000


def test_results_are_written_whole_and_an_earlier_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    first, second = measured(), results(row("torch-fp16", 0))
    save_results(first, path)
    assert load_results(path) == first
    save_results(second, path)
    assert load_results(path) == second
    (earlier,) = (other for other in tmp_path.iterdir() if other != path)
    assert load_results(earlier) == first


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 9}'])
def test_a_result_file_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(BenchmarkError, match=r"results\.json"):
        load_results(path)
    with pytest.raises(BenchmarkError, match=r"missing\.json"):
        load_results(tmp_path / "missing.json")
