"""The program as a user calls it: arguments in, files, text and exit codes out."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import measured
import pytest
import torch
from loopback import client_environment, loopback_hub
from safetensors.torch import load_file, save_file
from tiny import TINY, random_weights, write_checkpoint, write_recipe
from typer.testing import CliRunner

from pythia_quant.artifact import open_artifact, verify_files
from pythia_quant.cli import app
from pythia_quant.recipe import Recipe
from pythia_quant.results import GateOutcome, load_results
from pythia_quant.run import Outcome

COMMANDS = [
    "run",
    "convert",
    "bench",
    "report",
    "compare",
    "verify",
    "generate",
    "recipes list",
    "recipes show",
    "recipes validate",
    "suite",
    "source",
]


def program(
    *arguments: str | Path, environment: dict[str, str] | None = None, limit: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pythia_quant", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        preexec_fn=limit,
    )


def succeed(*arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    done = program(*arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(step \d+ of \d+: .*\n)*", done.stderr), "not on a terminal, a line a step is printed"
    return done.stdout


def refuse(
    *arguments: str | Path, environment: dict[str, str] | None = None, limit: Callable[[], None] | None = None
) -> str:
    done = program(*arguments, environment=environment, limit=limit)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    steps, error, message = done.stderr.partition("error: ")
    assert error, done.stderr
    assert re.fullmatch(r"(step \d+ of \d+: .*\n)*", steps)
    return error + message


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole main job once on a tiny checkpoint; return its folder, with the printed table in table.txt."""
    folder = tmp_path_factory.mktemp("run")
    recipe = write_recipe(folder)
    (folder / "table.txt").write_text(succeed("run", recipe, "--out", folder / "out"))
    return folder


def test_run_prints_one_table_within_100_columns_and_keeps_everything(finished: Path) -> None:
    table = (finished / "table.txt").read_text()
    assert max(map(len, table.splitlines()[:-1])) <= 100  # the last line is a path
    rows = ["torch-fp16", "torch-bf16", "torch-fp32", "bnb-nf4", "gptq-int4", "onnx-int8", "onnx-fp32"]
    for name in rows:
        assert re.search(rf"^{name} ", table, re.MULTILINE)
    results = load_results(finished / "out/tiny/local/results.json")
    assert [row.name for row in results.rows] == rows
    assert all(row.as_run and len(row.as_run.kl) == 6 and row.speeds for row in results.rows)
    assert {gate.variant for gate in results.gates} == {"onnx-int8"}
    for variant in rows[3:]:
        verify_files(open_artifact(finished / "out/tiny/local" / variant))


def test_what_is_written_may_be_read_by_whom_the_umask_lets(finished: Path) -> None:
    probe = finished / "probe"
    probe.touch()
    files = {path: path.stat().st_mode for path in (finished / "out").rglob("*") if path.is_file()}
    assert {path.name for path, mode in files.items() if mode != probe.stat().st_mode} == set()
    assert {path.suffix for path in files} >= {".safetensors", ".onnx", ".onnx_data", ".json"}


def test_measured_drift_is_that_of_the_weights_for_exact_runtimes(finished: Path) -> None:
    results = load_results(finished / "out/tiny/local/results.json")

    def as_run(name: str) -> list[float]:
        drift = results.row(name).as_run
        assert drift is not None
        return drift.kl

    assert max(as_run("torch-fp32")) < 1e-9
    assert max(as_run("onnx-fp32")) < 1e-9
    for name in ("bnb-nf4", "gptq-int4", "onnx-int8"):
        row = results.row(name)
        assert row.weights is not None
        weights, run = sum(row.weights.kl), sum(as_run(name))
        assert 0 < weights < 2 * run < 20 * weights


def test_every_row_counts_the_files_that_hold_weights(finished: Path) -> None:
    results = load_results(finished / "out/tiny/local/results.json")
    shown, parameters = (finished / "table.txt").read_text(), results.source.parameters
    in_fp16 = (finished / "tiny/model.safetensors").stat().st_size
    for row in results.rows:
        files = [*(finished / "out/tiny/local" / row.name).rglob("model*")]
        if row.name in ("torch-bf16", "torch-fp32"):  # no such file; its header has longer words and numbers
            wider = 2 * parameters if row.name == "torch-fp32" else 0
            assert row.disk_bytes == pytest.approx(in_fp16 + wider, abs=100)
        else:
            assert row.disk_bytes == (sum(path.stat().st_size for path in files) or in_fp16)
        assert row.bits_per_weight == 8 * row.disk_bytes / parameters
        size = f"{row.bits_per_weight:.2f} +{row.disk_bytes / 1e6:.1f}"
        assert re.search(rf"^{row.name} .* {size} ", shown, re.MULTILINE)
    assert "Bits, disk: all of the files that hold weights; of torch rows, a safetensors file" in shown


def test_run_again_finds_the_artifacts_there_and_keeps_the_earlier_results(finished: Path) -> None:
    before = open_artifact(finished / "out/tiny/local/onnx-fp32").manifest.created
    printed = succeed("convert", finished / "tiny.yaml", "--out", finished / "out")
    assert printed.count("bits a weight") == 4
    assert open_artifact(finished / "out/tiny/local/onnx-fp32").manifest.created == before


def test_bench_measures_again_and_prints_json(finished: Path) -> None:
    parent = finished / "out/tiny/local"
    before = parent / "results.json"
    first = load_results(before)
    recipe = finished / "without-speed.yaml"
    recipe.write_text((finished / "tiny.yaml").read_text().replace("rounds: 1", "rounds: 0"))
    printed = succeed("bench", parent / "onnx-fp32", parent / "onnx-int8", "--json", "--recipe", recipe)
    results = json.loads(printed)
    assert [row["name"] for row in results["rows"]][3:] == ["onnx-fp32", "onnx-int8"]
    assert (results["latency"], results["rows"][3]["speeds"]) == (None, [])
    (earlier,) = (path for path in parent.glob("results-*.json"))
    assert load_results(earlier) == first
    assert "0 values" not in succeed("compare", earlier, before)

    other = finished / "other.txt"
    other.write_text("another text altogether, long enough for a few windows of bytes. " * 4)
    options = ("--recipe", recipe, "--text", other, "--memory", "1MB", "--lambada", write_passages(finished))
    done = program("bench", parent / "gptq-int4", parent / "bnb-nf4", *options, "--context", "24", "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert (results["text"]["name"], results["protocol"]["windows"]) == (str(other), 6)
    assert results["protocol"]["context"] == 24
    rows = {row["name"]: row for row in results["rows"]}
    assert rows["torch-fp16"]["runtime"].endswith("layer by layer")
    assert rows["gptq-int4"]["as_run"]["kl"]
    assert (rows["bnb-nf4"]["as_run"], len(rows["bnb-nf4"]["weights"]["kl"])) == (None, 6)
    assert "it was not run: nothing runs it layer by layer" in rows["bnb-nf4"]["notes"][0]
    shutil.copy(before, finished / "another-text.json")
    assert "on another text" in refuse("compare", earlier, finished / "another-text.json")


def write_passages(folder: Path) -> Path:
    path = folder / "passages.jsonl"
    path.write_text("".join(json.dumps({"text": f"the number after {i} is {i + 1}"}) + "\n" for i in range(5)))
    return path


def test_lambada_is_measured_when_it_is_asked_for(recipe_file: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("rounds: 1", "rounds: 0"))
    passages, out = write_passages(recipe_file.parent), recipe_file.parent / "out"
    options = ("--only", "onnx-fp32", "--lambada", passages, "--out", out)
    succeed("run", recipe_file, *options)
    results = load_results(out / "tiny/local/results.json")
    assert results.lambada is not None
    assert results.lambada.examples == 5
    scores = [row.lambada for row in results.rows]
    assert all(score is not None and len(score.log_likelihood) == 5 for score in scores)
    assert scores[2] is not None
    assert scores[3] is not None
    assert scores[3].log_likelihood == pytest.approx(scores[2].log_likelihood, rel=1e-4)


def test_an_interrupted_benchmark_goes_on(finished: Path) -> None:
    """Killed once the first row's drift is there, it does not measure that again, and leaves nothing."""
    parent = finished / "out/tiny/local"
    recipe = finished / "on-and-on.yaml"
    recipe.write_text(
        (finished / "tiny.yaml").read_text().replace("rounds: 1", "rounds: 0").replace("windows: 6", "windows: 5")
    )
    command = [sys.executable, "-m", "pythia_quant", "bench", str(parent / "onnx-fp32"), "--recipe", str(recipe)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not list(parent.glob(".results.json.work-*/torch-fp16.drift.json")):
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    (done,) = parent.glob(".results.json.work-*/torch-fp16.drift.json")
    marked = json.loads(done.read_text()) | {"runtime": "what the killed one measured"}
    done.write_text(json.dumps(marked))
    results = json.loads(succeed(*command[3:], "--json"))
    assert results["rows"][0]["runtime"] == "what the killed one measured"
    assert not list(parent.glob(".results*"))


def test_verify_and_generate(finished: Path) -> None:
    from pythia_quant.generation import continue_text

    parent = finished / "out/tiny/local"
    printed = succeed("verify", *(parent / name for name in ("bnb-nf4", "gptq-int4", "onnx-int8", "onnx-fp32")))
    assert printed.count("files as in the manifest") == 4
    assert printed.count(f"weights are those of {finished / 'tiny'}") == 4
    assert "origin" not in printed
    arguments = ("generate", parent / "onnx-fp32", "--prompt", "abc", "--max-new-tokens", "5")
    greedy = json.loads(succeed(*arguments, "--json"))
    assert len(greedy["prompt_tokens"]) == 3
    assert 0 < len(greedy["tokens"]) <= 5
    assert succeed(*arguments).startswith("abc")
    sampled = json.loads(succeed(*arguments, "--temperature", "2", "--seed", "1", "--json"))
    again, other = (continue_text(parent / "onnx-fp32", "abc", 5, 2.0, seed) for seed in (1, 2))
    assert sampled["tokens"] == again.tokens != other.tokens
    assert "exceed the context" in refuse(*arguments[:-1], "40")


def test_onnx_continues_a_text_as_transformers_does(finished: Path) -> None:
    from pythia_quant.generation import continue_text
    from pythia_quant.runtimes import generate
    from pythia_quant.runtimes.hf import open_model

    ours = continue_text(finished / "out/tiny/local/onnx-fp32", "eval 12", 8)
    theirs = generate(open_model(finished / "tiny", torch.float32), torch.tensor(ours.prompt_tokens), 8, ends=(0,))
    assert ours.tokens == theirs
    assert len(ours.tokens) == 8


def test_an_altered_artifact_is_refused(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "onnx-fp32"
    shutil.copytree(finished / "out/tiny/local/onnx-fp32", copy)
    data = next(copy.glob("onnx/*_data"))
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    assert "onnx_data was changed" in refuse("verify", copy)
    assert "onnx_data was changed" in refuse("bench", copy)
    data.unlink()
    assert "onnx_data is missing" in refuse("verify", copy)
    assert "no artifact of ours" in refuse("verify", tmp_path)
    (copy / "pythia_quant.json").write_text('{"schema_version": 2}')
    assert "newer pythia-quant" in refuse("verify", copy)


def test_another_artifact_in_the_way_is_kept_unless_overwritten(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    recipe = finished / "changed.yaml"
    recipe.write_text((finished / "tiny.yaml").read_text().replace("{format: onnx}", "{format: onnx, block_size: 32}"))
    message = refuse("convert", recipe, "--only", "onnx-int8", "--out", out)
    assert "different settings" in message and "--overwrite" in message  # noqa: PT018
    assert open_artifact(out / "tiny/local/onnx-int8").manifest.settings["block_size"] == 64
    succeed("convert", recipe, "--only", "onnx-int8", "--out", out, "--overwrite")
    assert open_artifact(out / "tiny/local/onnx-int8").manifest.settings["block_size"] == 32


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def poison(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][3, 7] = torch.nan
    save_file(weights, folder / "model.safetensors")


def make_llama(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(TINY.tensor_shapes(), "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"model\.safetensors: cannot be read"),
        (poison, "1 of 16,384 values of .*dense_4h_to_h.weight are not finite"),
        (make_llama, "'llama'; only gpt_neox"),
        (lose_a_shard, "shard model-00001-of-00001.safetensors is missing"),
    ],
)
@pytest.mark.parametrize("variant", ["onnx-int8", "gptq-int4", "bnb-nf4"])
def test_a_damaged_source_leaves_nothing_behind(
    recipe_file: Path, damage: Callable[[Path], None], message: str, variant: str
) -> None:
    damage(recipe_file.parent / "tiny")
    out = recipe_file.parent / "out"
    assert re.search(message, refuse("convert", recipe_file, "--only", variant, "--out", out))
    assert not [path for path in out.rglob("*") if path.is_file() or path.name.startswith(".")]


@pytest.mark.parametrize("variant", ["onnx-fp32", "gptq-int4", "bnb-nf4"])
def test_a_file_that_cannot_be_written_leaves_nothing_behind(recipe_file: Path, variant: str) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    out = recipe_file.parent / "out"
    message = refuse("convert", recipe_file, "--only", variant, "--out", out, limit=small_files)
    assert "cannot be written" in message
    assert not [path for path in out.rglob("*") if path.is_file() or path.name.startswith(".")]


def test_calibration_text_that_is_the_evaluation_text_is_refused(recipe_file: Path) -> None:
    folder = recipe_file.parent
    message = refuse("convert", recipe_file, "--calibration", folder / "evaluation.txt", "--out", folder / "out")
    assert "share 13 tokens in a row" in message


def conversion_of_fp32(recipe: Path, out: Path) -> list[str]:
    """Return a command to start as a process of its own."""
    return [sys.executable, "-m", "pythia_quant", "convert", str(recipe), "--only", "onnx-fp32", "--out", str(out)]


def test_a_conversion_that_is_killed_can_be_run_again(recipe_file: Path) -> None:
    out = recipe_file.parent / "out"
    command = conversion_of_fp32(recipe_file, out)
    target = out / "tiny/local/onnx-fp32"
    for seconds in (1.0, 2.5, 4.0):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not target.exists():
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        if target.exists():
            verify_files(open_artifact(target))
            shutil.rmtree(target)
    succeed("convert", recipe_file, "--only", "onnx-fp32", "--out", out)
    verify_files(open_artifact(target))
    assert [path.name for path in target.parent.iterdir()] == ["onnx-fp32"]


def test_an_interrupted_conversion_says_so_and_leaves_nothing(recipe_file: Path) -> None:
    out = recipe_file.parent / "out"
    command = conversion_of_fp32(recipe_file, out)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not list(out.rglob(".onnx-fp32.partial-*")):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    printed, complaint = child.communicate()
    assert (child.returncode, printed) == (130, "")
    assert complaint.splitlines()[-1] == "interrupted; the same command goes on with what is missing"
    assert not [path for path in out.rglob("*") if path.is_file() or path.name.startswith(".")]


def test_a_hub_model_is_converted_under_its_name_and_revision(recipe_file: Path, tmp_path: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("rounds: 1", "rounds: 0"))
    with loopback_hub() as hub:
        step = write_checkpoint(tmp_path / "step")
        (step / "model.safetensors").unlink()  # many step revisions hold only a pickle
        torch.save(random_weights(TINY, seed=3), step / "pytorch_model.bin")
        hub.add("someone/tiny", {"main": tmp_path / "tiny", "step3000": step})
        environment = client_environment(hub, tmp_path / "home")
        options = (
            "--model",
            "someone/tiny",
            "--revision",
            "step3000",
            "--only",
            "onnx-fp32",
            "--out",
            tmp_path / "out",
        )
        succeed("run", recipe_file, *options, environment=environment)
        folder = tmp_path / "out/someone--tiny/step3000/onnx-fp32"
        manifest = open_artifact(folder).manifest
        assert (manifest.source.revision, manifest.source.commit) == (
            "step3000",
            hub.head("someone/tiny", "step3000"),
        )
        assert "hf_secret" not in (folder / "pythia_quant.json").read_text()
        offline = environment | {"HF_HUB_OFFLINE": "1"}
        results = json.loads(succeed("bench", folder, "--json", environment=offline))
        assert (results["source"]["revision"], results["source"]["commit"]) == ("step3000", manifest.source.commit)


def test_several_revisions_are_run_in_turn_and_those_before_a_refusal_are_kept(
    recipe_file: Path, tmp_path: Path
) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("rounds: 1", "rounds: 0"))
    first = write_checkpoint(tmp_path / "first", weights=random_weights(TINY, seed=1))
    second = write_checkpoint(tmp_path / "second")
    (second / "tokenizer.json").unlink()
    with loopback_hub() as hub:
        hub.add("someone/tiny", {"main": tmp_path / "tiny", "step1000": first, "step2000": second})
        environment = client_environment(hub, tmp_path / "home")
        options = ("--model", "someone/tiny", "--only", "onnx-fp32", "--out", tmp_path / "out")
        several = ("--revision", "step1000,step2000")
        done = program("run", recipe_file, *options, *several, environment=environment)
    assert done.returncode == 2
    assert re.search("^error: step2000: .*: has no tokenizer.json", done.stderr, re.MULTILINE)
    assert done.stderr.endswith("\n  kept, done before it: step1000\n")
    assert "hf_secret" not in done.stdout + done.stderr
    folder = tmp_path / "out/someone--tiny/step1000"
    assert f"Artifacts and results.json are in {folder}\n" in done.stdout
    assert load_results(folder / "results.json").source.revision == "step1000"
    assert open_artifact(folder / "onnx-fp32").manifest.source.commit == hub.head("someone/tiny", "step1000")
    assert [path.name for path in folder.parent.iterdir()] == ["step1000"]


def test_the_exit_code_is_of_the_worst_gate_at_any_revision(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at: list[str] = []

    def run_one(recipe: Recipe, *_: object) -> Outcome:
        at.append(recipe.settings.source.revision)
        outcome: Literal["passed", "failed"] = "failed" if len(at) == 1 else "passed"
        gate = GateOutcome(variant="v", gate="max_kl", limit=1, value=1, low=0, high=2, outcome=outcome)
        results = measured.results(measured.row("torch-fp16", 0)).model_copy(update={"gates": [gate]})
        return Outcome([], results, Path("results.json"))

    monkeypatch.setattr("pythia_quant.run.run", run_one)
    monkeypatch.setattr("pythia_quant.report.terminal.print_results", lambda *_: None)
    arguments = ["run", str(recipe_file), "--model", "EleutherAI/pythia-14m", "--revision", "step512..step2000"]
    assert CliRunner().invoke(app, arguments).exit_code == 3
    assert at == ["step512", "step1000", "step2000"]


def test_a_range_of_revisions_needs_a_model_of_the_suite(recipe_file: Path) -> None:
    refused = CliRunner().invoke(app, ["convert", str(recipe_file), "--revision", "step1000..step2000"])
    assert "the model is not of the suite" in str(refused.exception)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    printed = succeed(*command.split(), "--help")
    assert "Example" in printed
    assert f"pythia-quant {command.split(maxsplit=1)[0]}" in printed


def test_the_program_starts_without_torch() -> None:
    script = (
        "import sys; from pythia_quant.recipe import load_recipe; import pythia_quant.cli; load_recipe('demo');"
        "print(sorted({'torch', 'transformers', 'onnx', 'onnxruntime', 'bitsandbytes'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recipes_and_suite_are_listed_and_shown(recipe_file: Path) -> None:
    assert "EleutherAI/pythia-6.9b" in succeed("recipes", "list")
    assert "format: gptq" in succeed("recipes", "show", "pythia-1.4b")
    assert "valid, recipe id" in succeed("recipes", "validate", recipe_file)
    sizes = json.loads(succeed("suite", "--json"))
    assert sizes[3]["parameters"] == 162_322_944
    assert "11,846,072,320" in succeed("suite")
    recipe_file.write_text(recipe_file.read_text().replace("damping", "dampling").replace("windows: 16", "window: 16"))
    assert "did you mean 'windows'" in refuse("recipes", "validate", recipe_file)


def test_an_argument_that_is_not_utf8_is_refused_whatever_it_is_for() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pythia_quant", "generate", "folder", "--prompt", b"caf\xe9"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == b"error: caf\\udce9: is not UTF-8\n  give it in that encoding\n"


WARNING = """
import sys, warnings
from pythia_quant.cli import main
sys.argv[1:] = []
main(lambda: warnings.warn("for programmers"))
main(lambda: print("text"))
"""


def test_warnings_of_libraries_are_not_shown_and_output_that_cannot_be_written_is_named() -> None:
    with open(os.devnull) as read_only:  # noqa: PTH123 - as the shell's 1</dev/null
        done = subprocess.run([sys.executable, "-c", WARNING], stdout=read_only, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: standard output: is not open for this")
