"""What others made, measured by `bench` beside what we made."""

import csv
import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
from foreign_makers import save_bnb, save_compressed, save_gptq, save_half
from passages import write_passages
from program import refuse, run, succeed
from shared import linked
from tiny import byte_tokenizer, write_checkpoint

from pythia_quant.records.results import load_results


@pytest.fixture
def finished(converted: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny recipe, source and artifacts by hard links."""
    return linked(converted, tmp_path / "finished")


@pytest.fixture
def quick(finished: Path) -> Path:
    """Return a recipe that measures no speed."""
    recipe = finished / "without-speed.yaml"
    recipe.write_text((finished / "tiny.yaml").read_text().replace("rounds: 1", "rounds: 0"))
    return recipe


def test_theirs_and_ours_have_one_table(finished: Path, quick: Path, tmp_path: Path) -> None:
    source, out = finished / "tiny", tmp_path / "out"
    gptq = save_gptq(source, tmp_path / "their-gptq", bits=3, group_size=32)
    half = save_half(source, tmp_path / "half")
    bnb = save_bnb(source, tmp_path / "bnb", load_in_4bit=True, bnb_4bit_quant_type="nf4")
    ours = finished / "out/tiny/local/gptq-int4"
    options = ("--source", source, "--out", out, "--recipe", quick)
    printed = succeed("bench", gptq, half, bnb, ours, *options)
    assert "others made it, and nothing proves the integrity" in " ".join(printed.split())
    results = load_results(out / "results.json")
    rows = {row.name: row for row in results.rows}
    assert list(rows)[3:] == ["gptq-int4", "their-gptq", "half", "bnb"]
    theirs = rows["their-gptq"].foreign
    assert theirs is not None
    assert (theirs.kind, theirs.tokenizer, list(theirs.files)) == (
        "gptq",
        "source",
        ["gptq_model-3bit-32g.safetensors"],
    )
    assert rows["half"].foreign is not None
    assert rows["half"].foreign.tokenizer == "own"
    assert rows["gptq-int4"].foreign is None
    assert {row.name: row.quantized for row in results.rows[3:]} == {
        "gptq-int4": True, "their-gptq": True, "half": False, "bnb": True,
    }  # fmt: skip
    assert rows["half"].as_run == rows["torch-fp16"].as_run
    assert rows["their-gptq"].weights is not None
    assert rows["their-gptq"].layers
    assert not results.gates
    assert "their-gptq" in succeed("report", out / "results.json", "--format", "markdown")
    lines = list(csv.DictReader(StringIO(succeed("report", out / "results.json", "--format", "csv"))))
    assert {line["row"]: line["made_by"] for line in lines} == {
        **dict.fromkeys(("torch-fp16", "torch-bf16", "torch-fp32"), "source"),
        "gptq-int4": "ours", **dict.fromkeys(("their-gptq", "half", "bnb"), "others"),
    }  # fmt: skip
    compared = run("compare", out, out, "--rows", "gptq-int4=their-gptq", "--json")
    assert compared.returncode in (0, 3), compared.stderr
    data = json.loads(compared.stdout)
    assert "gptq-int4 → their-gptq" in {change["row"] for change in data["changes"] if change["verdict"] != "same"}
    assert any("their-gptq is not ours" in note for note in data["notes"])
    assert "there is no row" in refuse("compare", out, out, "--rows", "gptq-int4=nothing")


@pytest.mark.slow
@pytest.mark.measures_time
def test_theirs_have_speed_and_lambada(finished: Path, tmp_path: Path) -> None:
    theirs = save_compressed(finished / "tiny", tmp_path / "theirs", {"num_bits": 4, "group_size": 32})
    recipe = finished / "one-length.yaml"
    text = (finished / "tiny.yaml").read_text()
    recipe.write_text(text.replace("rounds: 1", "rounds: 1, prompts: [8], contexts: [8]"))
    options = ("--source", finished / "tiny", "--recipe", recipe, "--out", tmp_path / "out")
    done = run("bench", theirs, *options, "--lambada", write_passages(tmp_path), "--threads", "1")
    assert done.returncode == 0, done.stderr  # where it also says if other programs disturbed it
    row = load_results(tmp_path / "out/results.json").rows[-1]
    assert row.foreign is not None
    assert row.lambada is not None
    assert len(row.lambada.greedy) == 5
    (speed,) = row.speeds
    assert (speed.threads, len(speed.processes)) == (1, 1)
    assert speed.weight_bytes is not None
    assert speed.processes[0].decode[0].seconds
    assert "theirs †" in done.stdout
    lines = csv.DictReader(StringIO(succeed("report", tmp_path / "out/results.json", "--format", "csv")))
    said = {line["metric"] for line in lines if line["row"] == "theirs"}
    assert {"decode", "prefill", "lambada"} <= {metric.partition("_")[0] for metric in said}, said


def test_what_was_not_made_of_this_source_is_refused(finished: Path, quick: Path, tmp_path: Path) -> None:
    source, theirs = finished / "tiny", save_gptq(finished / "tiny", tmp_path / "theirs")
    options = ("--source", source, "--out", tmp_path / "out", "--recipe", quick)
    assert "does not say what it was made from" in refuse("bench", theirs)
    assert "contradict" not in refuse("bench", theirs, *options, "--model", source)
    ours = finished / "out/tiny/local/gptq-int4"
    assert "all of these are ours" in refuse("bench", ours, "--source", source)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["eval "])
    tokenizer.save(str(theirs / "tokenizer.json"))
    assert "its tokenizer is not the source's" in refuse("bench", theirs, *options)
    assert not (tmp_path / "out/results.json").exists()
    (theirs / "tokenizer.json").unlink()
    other = shutil.copytree(write_checkpoint(tmp_path / "other"), tmp_path / "again")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    assert "hidden_act is gelu, the source's is relu" in refuse("bench", theirs, *options[:1], other, *options[2:])
    (tmp_path / "nothing").mkdir()
    assert "in a way that is known here" in refuse("bench", tmp_path / "nothing", *options)
    (tmp_path / "notes.txt").write_text("nothing")
    assert "in a way that is known here" in refuse("bench", tmp_path / "notes.txt", *options)
    second = shutil.copytree(theirs, tmp_path / "elsewhere/theirs")
    assert "is called theirs, as" in refuse("bench", theirs, second, *options)
