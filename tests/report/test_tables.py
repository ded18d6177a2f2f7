import csv
import json
from io import StringIO
from pathlib import Path

import plausible
import pytest
from measured import lambada_run, results, row

from pythia_quant.bench.metrics import METRICS, Value
from pythia_quant.records.results import Drift, Results
from pythia_quant.report.files import ResultFile, file_names, letter, read_files, short_labels
from pythia_quant.report.numbers import format_value, missing_characters
from pythia_quant.report.tables import render_table


def files(*contents: Results) -> list[ResultFile]:
    return [
        ResultFile(letter(index), "m", f"label {index}", "results.json", Path("results.json"), "0" * 64, content)
        for index, content in enumerate(contents)
    ]


def records(*contents: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(render_table(files(*contents), "csv"))))


def test_csv_holds_every_value_with_what_it_belongs_to() -> None:
    run = plausible.results("160m")
    found = {(record["row"], record["metric"]): record for record in records(run)}
    measured = {
        (one.name, key): value
        for one in run.rows
        for key, metric in METRICS.items()
        if (value := metric.value_of(one, run)) is not None
    }
    assert found.keys() == measured.keys()
    for key, value in measured.items():
        assert Value(*(float(found[key][field]) for field in ("value", "low", "high"))) == value
        assert found[key]["unit"] == METRICS[key[1]].unit
    kl, decode, size = (found["onnx-int4", key] for key in ("kl", "decode", "disk"))
    assert (kl["model"], kl["revision"], kl["commit"]) == (run.source.model, "main", run.source.commit)
    assert (kl["text_sha256"], kl["protocol"], kl["interval"]) == (run.text.sha256, "windows v2", "95 %")
    assert (decode["protocol"], decode["interval"], decode["threads"]) == ("latency v2", "10 % to 90 %", "2")
    assert (size["protocol"], size["interval"]) == ("size v2", "")
    assert found["torch-bf16", "decode"]["disturbed"] == "other programs took 9 % of the processors"
    assert found["torch-bf16", "kl"]["disturbed"] == decode["disturbed"] == ""
    assert "AMD EPYC 9R14" in kl["machine"]


def test_published_numbers_stand_beside_those_of_the_baseline() -> None:
    run = lambada_run(1_720, 43.0)
    found = {(one["row"], one["metric"]): (one["published"], one["agrees"]) for one in records(run)}
    assert found["torch-fp16", "lambada_accuracy"] == ("32.84", "True")
    assert found["torch-fp16", "lambada_perplexity"] == ("38.065", "False")
    assert {beside for (_, metric), beside in found.items() if not metric.startswith("lambada")} == {("", "")}
    markdown = render_table(files(run), "markdown")
    assert (
        "- LAMBADA, published: accuracy 32.84 % ± 1.28, perplexity 38.065 ± 2.81; torch-fp16 does not agree" in markdown
    )
    assert "- torch-fp16: LAMBADA of torch-fp16 is not as published of EleutherAI/pythia-160m" in markdown


def test_json_holds_the_same_as_csv_and_has_no_infinity() -> None:
    broken = row("variant", 0).model_copy(update={"as_run": Drift(nll=[], kl=[], top1=[], non_finite=3)})
    run = results(row("torch-fp16", 0.0001), broken)
    found = json.loads(render_table(files(run), "json"), parse_constant=pytest.fail)
    assert [(record["row"], record["metric"]) for record in found] == [
        (record["row"], record["metric"]) for record in records(run)
    ]
    (drift,) = (one for one in found if (one["row"], one["metric"]) == ("variant", "ppl_drift"))
    assert drift["value"] == "Infinity"
    assert found[0]["value"] == METRICS["ppl_drift"].value_of(run.rows[0], run).value  # type: ignore[union-attr]


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t=", "\r=", " ="])
def test_a_text_cell_is_no_formula_and_a_negative_number_stays_one(sign: str) -> None:
    name = f"{sign}HYPERLINK(1)"
    run = results(row("torch-fp16", 0.0001), row("variant", -0.02).model_copy(update={"name": name}))
    assert all(not record["row"].strip().startswith(tuple("=+-@")) for record in records(run))
    (drift,) = (one for one in records(run) if one["metric"] == "ppl_drift" and one["row"].startswith("'"))
    assert float(drift["value"]) < 0
    assert render_table(files(run), "csv").count("'-0.") == 0


def test_markdown_is_a_table_with_units_intervals_protocol_and_machine() -> None:
    run = plausible.results("160m")
    text = render_table(files(run), "markdown")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + len(run.rows)
    assert "KL, mnat ↓" in table[0]
    assert "decode, ms/token ↓" in table[0]
    (line,) = (line for line in table if line.startswith("| gptq-int4"))
    for key in ("kl", "decode"):
        text_of, interval = format_value(
            METRICS[key], run.row("gptq-int4"), METRICS[key].value_of(run.row("gptq-int4"), run)
        )
        assert text_of in line
        assert interval in line
    assert "**torch-fp16** (baseline)" in text
    for needed in ("windows v2", "latency v2", "AMD EPYC 9R14", run.text.sha256[:12], "undecided", "without VNNI."):
        assert needed in text
    assert "size v2: all bytes of the files that hold weights" in text


@pytest.mark.parametrize(
    "name", ["a|b", "`code`", "<script>alert(1)</script>", "*bold*_", "two\nlines", "[a](b)", "$x$"]
)
def test_markdown_shows_a_name_as_it_is(name: str) -> None:
    run = results(row("torch-fp16", 0.0001), row("variant", 0.02).model_copy(update={"name": name}))
    table = [line for line in render_table(files(run), "markdown").splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<" not in table[3]
    for sign in "`*_[]$|":
        assert table[3].count(f"\\{sign}") == name.count(sign)


def test_numbers_have_few_digits_a_sign_and_an_interval() -> None:
    one = row("variant", 0.02)

    def text(key: str, *numbers: float) -> tuple[str, str]:
        return tuple(format_value(METRICS[key], one, Value(*numbers)))  # type: ignore[return-value]

    assert text("ppl_drift", 2.089, 1.80, 2.378) == ("+2.09", "±0.29")
    assert text("ppl_drift", -0.001, -0.002, 0.0) == ("0.00", "±0.00")
    assert text("kl", 12.951, 12.651, 13.251) == ("12.95", "±0.30")
    assert text("kl", 0.00604, 0.006, 0.00608) == ("0.0060", "±0.0000")
    assert text("kl", 1e-7, 0.5e-7, 1.5e-7) == ("<0.0001", "")
    assert text("kl_p99", 206.73, 192.2, 223.3) == ("206.7", "192.2–223.3")
    assert text("prefill", 44285.3, 42000, 45000) == ("44,285", "42,000–45,000")
    assert text("decode", 1.5, 1.25, 1.75) == ("1.50", "1.25–1.75")
    assert text("ppl_drift", float("inf"), 0, 0) == ("not finite", "")
    unknown = format_value(METRICS["kl"], one.model_copy(update={"as_run": None}), None)
    assert unknown == ("not run", "")
    assert format_value(METRICS["kl_weights"], one, None).text == "–"


def test_decimal_points_of_a_column_are_below_each_other() -> None:
    assert missing_characters(["27.87", "0.0060", "1,234", "–", "not run", "<0.0001"]) == [2, 0, 5, 0, 0, 0]
    assert missing_characters(["12", "1,200"]) == [0, 0]
    assert missing_characters([]) == []


def test_labels_are_short_and_tell_the_files_apart() -> None:
    small, large = plausible.results("14m"), plausible.results("410m", plausible.GRAVITON)
    assert short_labels([small], ["one"]) == ["pythia-14m"]
    assert short_labels([small, large], ["one", "two"]) == [
        "pythia-14m · AMD EPYC 9R14, 2 cores", "pythia-410m · ARM Neoverse-V1, 8 cores",
    ]  # fmt: skip
    assert (
        short_labels([plausible.results("14m", revision="step3000"), small], ["one", "two"])[0]
        == "pythia-14m @ step3000"
    )
    other_text = small.model_copy(update={"text": small.text.model_copy(update={"name": "Pile"})})
    assert short_labels([small, other_text], ["one", "two"]) == [
        "pythia-14m · WikiText-2 raw, test split", "pythia-14m · Pile",
    ]  # fmt: skip
    assert short_labels([small, small], ["one", "two"]) == ["pythia-14m · one", "pythia-14m · two"]
    assert len(set(short_labels([small, small, small], ["one", "one", "one"]))) == 3
    assert [letter(index) for index in (0, 25, 26, 51, 52)] == ["A", "Z", "AA", "AZ", "BA"]


def test_a_file_is_called_by_what_tells_its_path_from_the_others() -> None:
    def names(*paths: str) -> list[str]:
        return [name.replace("\\", "/") for name in file_names([Path(path) for path in paths])]

    assert names("a/before.json", "b/after.json") == ["before.json", "after.json"]
    assert names("a/one.json", "b/one.json") == ["a/one.json", "b/one.json"]
    assert names("x/demo/results.json", "x/other/results.json") == ["demo", "other"]
    assert names("a/main/results.json", "b/main/results.json", "b/c.json") == ["a/main", "b/main", "c.json"]
    assert names("a/one.json", "a/one.json") == ["one.json", "one.json"]
    assert names("/a/one.json", "one.json")[0] == "a/one.json"
    assert names() == []


def test_a_folder_stands_for_the_results_in_it(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(plausible.results("14m").model_dump_json())
    (file,) = read_files([tmp_path])
    assert file.path == tmp_path / "results.json"
    assert file.slug == "a-pythia-14m"
