"""`run --dry-run` says what a run does and does none of it; `run --quick` says on every number what it is."""

import json
from pathlib import Path

import pytest
from hub_user import SOURCE, Client
from program import run, succeed
from tiny import write_recipe

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.bench.rows import Options
from pythia_quant.library.forecast import Forecast, forecast
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records.results import Results, load_results, save_results
from pythia_quant.report.tables import tidy_records

ARTIFACTS = "out/tiny/local"


def foreseen(recipe: Path, out: Path, *names: str, quick: bool = False, memory: int | None = None) -> Forecast:
    chosen = load_recipe(str(recipe))
    options = Options([2], memory, quick=quick)
    return forecast(chosen, list(chosen.variants(list(names))), out, options, overwrite=False)


def test_it_foresees_what_a_run_then_does(finished: Path) -> None:
    recipe, before = finished / "tiny.yaml", finished / "not-yet"
    planned, results = foreseen(recipe, before), load_results(finished / ARTIFACTS / "results.json")
    assert not before.exists()
    assert (planned.model, planned.parameters) == (results.source.model, results.source.parameters)
    assert planned.evaluation == (results.protocol.windows, results.protocol.context)
    assert [row.row for row in planned.rows] == [row.name for row in results.rows]
    assert planned.rounds == (results.latency and results.latency.rounds)
    for conversion in planned.conversions:
        artifact = open_artifact(finished / ARTIFACTS / conversion.variant)
        graph_and_headers = 80_000
        assert 0 <= artifact.manifest.bytes_on_disk - conversion.bytes < graph_and_headers
        assert not conversion.is_there
    assert set(planned.measuring_seconds) == {"drift", "speed"}
    again = foreseen(recipe, finished / "out")
    assert all(conversion.is_there for conversion in again.conversions)
    assert again.seconds < planned.seconds
    assert again.disk_bytes < planned.disk_bytes


def test_variants_whose_integers_others_take_are_converted_too(recipe_file: Path) -> None:
    text = recipe_file.read_text()
    taken = "  onnx-int4: {format: onnx, codes: gptq-int4, weights: int4, block_size: 32}\n"
    recipe_file.write_text(text.replace("gates:", f"{taken}gates:"))
    planned = foreseen(recipe_file, recipe_file.parent / "out", "onnx-int4")
    assert [one.variant for one in planned.conversions] == ["gptq-int4", "onnx-int4"]
    assert [row.row for row in planned.rows][3:] == ["onnx-int4"]


def test_what_does_not_fit_in_memory_is_said(recipe_file: Path) -> None:
    planned = foreseen(recipe_file, recipe_file.parent / "out", "onnx-fp32", memory=1_000_000)
    assert not any(row.whole for row in planned.rows)
    assert planned.memory_bytes < 2_000_000_000
    succeed(
        "run", recipe_file, "--dry-run", "--memory", "1MB", "--only", "onnx-fp32", "--out", recipe_file.parent / "out"
    )
    printed = run("run", recipe_file, "--dry-run", "--memory", "1MB", "--out", recipe_file.parent / "out").stdout
    assert "run layer by layer, if at all, and without speed: torch-fp16, torch-bf16" in printed
    assert not (recipe_file.parent / "out").exists()


def test_of_a_hub_model_everything_but_the_weights_is_downloaded(origin: Path, client: Client) -> None:
    weights = (origin / "tiny/model.safetensors").stat().st_size
    arguments = ("run", origin / "tiny.yaml", "--model", SOURCE, "--only", "onnx-fp32", "--dry-run")
    printed = client.succeed(*arguments)
    assert "download the weights" in printed
    cached = {path.name for path in client.home.rglob("*") if path.is_file() or path.is_symlink()}
    assert {"config.json", "tokenizer.json"} <= cached
    assert not any(name.startswith("model") for name in cached)
    planned = json.loads(client.succeed(*arguments, "--json"))
    assert planned["download_bytes"] == weights
    assert client.run(*arguments, "--model", "someone/else").returncode == 2


def test_a_recipe_that_does_not_fit_is_refused_as_in_a_run(recipe_file: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("group_size: 32", "group_size: 7"))
    done = run("run", recipe_file, "--dry-run", "--only", "gptq-int4")
    assert done.returncode == 2
    assert "group_size" in done.stderr


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("quick")
    recipe = write_recipe(folder)
    # No quick look may decide this gate, which a whole run fails.
    recipe.write_text(recipe.read_text().replace("windows: 6", "windows: 12").replace("max_ppl_drift: 50", "max_kl: 0"))
    printed = succeed("run", recipe, "--quick", "--only", "onnx-int8", "--out", folder / "out")
    assert [path.name for path in (folder / ARTIFACTS).glob("*.json")] == ["quick.json"]
    made, asked = open_artifact(folder / ARTIFACTS / "onnx-int8").recipe().settings, load_recipe(str(recipe)).settings
    assert (made.evaluation, made.gates, made.latency) == (asked.evaluation, asked.gates, asked.latency)
    rows = [line for line in printed.splitlines() if line.startswith(("torch-", "onnx-int8 "))]
    assert sum(line.endswith("quick look") for line in rows) == 4, "once a row, also where the table has two blocks"
    return load_results(folder / ARTIFACTS / "quick.json")


def test_a_quick_look_measures_little_and_judges_no_gate(quick: Results) -> None:
    assert (quick.protocol.windows, quick.gates, quick.quick) == (8, [], True)
    assert [note for note in quick.notes if note.startswith("Quick look: ")]
    assert quick.latency
    assert (quick.latency.rounds, len(quick.latency.prompts), len(quick.latency.contexts)) == (1, 1, 1)


def test_a_quick_look_says_so_on_every_number(quick: Results, tmp_path: Path) -> None:
    records = list(tidy_records(quick, "q"))
    assert len(records) > 30
    for record in records:
        assert record["protocol"].startswith("size") or record["protocol"].endswith(", quick look")
    save_results(quick, tmp_path / "quick.json")
    succeed("report", tmp_path / "quick.json", "--out", tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "A quick look at what quantization cost" in page
    assert page.count('<span class="tag undecided">quick look</span>') == len(quick.rows)
    assert "8 windows of 32 tokens (quick look)" in page
