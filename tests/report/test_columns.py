"""The table on terminals of several widths, and the columns and the order that `show` takes."""

import json
import re
import shutil
from io import StringIO
from pathlib import Path

import plausible
import pytest
from program import refuse, run, succeed
from rich.console import Console

from pythia_quant.records.results import Results, save_results
from pythia_quant.report.columns import columns_of, sort_rows
from pythia_quant.report.terminal import print_results

VERSION_1 = Path(__file__).parent.parent / "data" / "results-1.json"
NUMBERS = ("ppl_drift", "ppl_drift_weights", "kl", "top1", "prefill", "decode", "speedup_baseline", "memory")


def printed(measured: Results, width: int, **options: bool) -> list[str]:
    stream = StringIO()
    print_results(measured, Console(file=stream, width=width), **options)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 99, 100, 120, 140, 200])
def test_no_number_is_cut_or_wrapped_at_any_width(width: int) -> None:
    measured = plausible.results("410m")
    lines = printed(measured, width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    words = {word for line in lines for word in line.split()}
    values = [cell for column in columns_of(measured, NUMBERS) for cell in column.cells]
    for cell in values:
        assert {cell.text, cell.text + cell.interval} & words


@pytest.mark.parametrize(("width", "blocks"), [(80, 2), (99, 2), (100, 1), (140, 1)])
def test_below_100_columns_quality_and_speed_are_two_blocks(width: int, blocks: int) -> None:
    lines = printed(plausible.results(), width)
    assert sum(line.startswith("onnx-int8-dynamic ") for line in lines) == blocks
    assert any(line.startswith("Quality and size") for line in lines) == (blocks == 2)


@pytest.mark.parametrize("width", [140, 160])
def test_from_140_columns_on_every_number_has_its_interval(width: int) -> None:
    measured = plausible.results()
    words = {word for line in printed(measured, width) for word in line.split()}
    for column in columns_of(measured, NUMBERS):
        for cell in column.cells:
            assert cell.text + cell.interval in words


def test_the_definitions_can_be_left_out_and_a_note_of_several_rows_is_said_once() -> None:
    measured = plausible.results()
    rows = [row.model_copy(update={"notes": ["was looked at"]}) for row in measured.rows]
    text = "\n".join(printed(measured.model_copy(update={"rows": rows}), 100))
    assert text.count("was looked at") == 1
    assert text.count("Drift, KL, top-1") == 1
    assert "Drift, KL, top-1" not in "\n".join(printed(measured, 100, explain=False))


def test_rows_are_sorted_by_what_is_better_and_those_without_a_value_are_last() -> None:
    measured = plausible.results()
    unmeasured = measured.rows[3].model_copy(update={"as_run": None, "speeds": []})
    measured = measured.model_copy(update={"rows": [unmeasured, *measured.rows[:3], *measured.rows[4:]]})
    by_kl = [row.name for row in sort_rows(measured, "kl").rows]
    assert by_kl[0] == "torch-fp32"
    assert by_kl[-1] == unmeasured.name
    assert sort_rows(measured, "prefill").rows[0].name == "onnx-int8-dynamic"


def test_show_prints_the_newest_table_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    deep = tmp_path / "demo" / "builtin"
    deep.mkdir(parents=True)
    shutil.copyfile(VERSION_1, deep / "results.json")
    for place in (tmp_path, deep, deep / "results.json"):
        shown = succeed("show", place)
        assert shown.startswith("builtin:demo (builtin): 2,238,464 parameters\n")
        assert max(map(len, shown.splitlines()[:-1])) <= 80
        assert shown.endswith(f"\nFrom {deep / 'results.json'}\n")
    save_results(plausible.results(), tmp_path / "results.json")
    assert succeed("show", tmp_path).startswith("EleutherAI/pythia-160m")
    assert succeed("show", deep).startswith("builtin:demo")


def test_show_takes_columns_an_order_and_json(tmp_path: Path) -> None:
    save_results(plausible.results(), tmp_path / "results.json")
    options = ("--columns", "bits_per_weight, kl,gates", "--sort", "bits_per_weight")
    shown = succeed("show", tmp_path, *options)
    (line,) = (line for line in shown.splitlines() if line.startswith("onnx-int4 "))
    assert re.fullmatch(r"onnx-int4 +6\.50 +7\.22±0\.31 +passed", line.rstrip())
    assert "decode" not in shown.split("fp16 floor")[0]
    data = json.loads(succeed("show", tmp_path, *options, "--json"))
    assert [row["row"] for row in data["rows"]][:3] == ["bnb-nf4", "gptq-int4", "onnx-int4"]
    assert set(data["rows"][0]["values"]) == {"bits_per_weight", "kl"}
    assert data["rows"][1]["gates"]["max_ppl_drift"] == "passed"
    assert "decode" in json.loads(succeed("show", tmp_path, "--json"))["rows"][0]["values"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sort", "top2"), "--sort: 'top2' is no metric\n  did you mean 'top5'?"),
        (("--columns", "kl,decodes"), "--columns: 'decodes' is no metric\n  did you mean 'decode'?"),
        (("--columns", " , "), "--columns: names no column\n  choose from: ppl_drift,"),
    ],
)
def test_an_unknown_metric_or_column_is_one_error_with_a_suggestion(options: tuple[str, str], message: str) -> None:
    assert message in refuse("show", VERSION_1, *options)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    assert "there is no results.json in or below it" in refuse("show", tmp_path)
    assert "missing.json" in refuse("show", tmp_path / "missing.json")
    (tmp_path / "quick.json").write_text("{}")
    assert f"run --quick has left {tmp_path / 'quick.json'}: give that file" in refuse("show", tmp_path)


def test_no_color_takes_the_colours_and_a_pipe_all_styles(tmp_path: Path) -> None:
    measured = plausible.results()
    stream = StringIO()
    environment = {"NO_COLOR": "1", "TERM": "xterm-256color"}
    print_results(measured, Console(file=stream, width=100, force_terminal=True, _environ=environment))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", stream.getvalue())
    save_results(measured, tmp_path / "results.json")
    assert "\x1b" not in run("show", tmp_path).stdout
