"""Artifacts measured again by `bench`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from passages import write_passages
from program import refuse, run, succeed
from shared import linked

from pythia_quant.bench.measurements import _sealed
from pythia_quant.core.files import Cache
from pythia_quant.records.results import load_results


def test_bench_measures_again_and_prints_json(finished: Path) -> None:
    parent = finished / "out/tiny/local"
    before = parent / "results.json"
    first = load_results(before)
    recipe = finished / "without-speed.yaml"
    silent = (finished / "tiny.yaml").read_text().replace("rounds: 1", "rounds: 0")
    recipe.write_text(silent.replace("min_top1: 10", "min_top1: 10, min_speedup: 1000"))
    printed = succeed("bench", parent / "onnx-fp32", parent / "onnx-int8", "--json", "--recipe", recipe)
    results = json.loads(printed)
    assert [row["name"] for row in results["rows"]][3:] == ["onnx-fp32", "onnx-int8"]
    assert (results["latency"], results["rows"][3]["speeds"]) == (None, [])
    assert [gate["gate"] for gate in results["gates"]] == ["max_ppl_drift", "min_top1"]
    assert [row["notes"] for row in results["rows"][3:]] == [
        [],
        ["no gate min_speedup: the recipe asks for no speed (latency.rounds is 0)"],
    ]
    (earlier,) = (path for path in parent.glob("results-*.json"))
    assert load_results(earlier) == first
    assert "0 values" not in succeed("compare", earlier, before)

    other = finished / "other.txt"
    other.write_text("another text altogether, long enough for a few windows of bytes. " * 4)
    options = ("--recipe", recipe, "--text", other, "--memory", "1MB", "--lambada", write_passages(finished))
    done = run("bench", parent / "gptq-int4", parent / "bnb-nf4", *options, "--context", "24", "--json")
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


def test_a_folder_stands_for_all_artifacts_below_it_and_the_source_is_not_measured_again(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for revision in ("local", "step1"):
        linked(finished / "out/tiny/local/onnx-int8", out / "tiny" / revision / "onnx-int8")
    recipe = finished / "without-speed.yaml"
    recipe.write_text((finished / "tiny.yaml").read_text().replace("rounds: 1", "rounds: 0"))
    environment = os.environ | {"PYTHIA_QUANT_CACHE": str(tmp_path / "cache")}

    def rows(*more: str) -> list[dict[str, str]]:
        printed = succeed("bench", out, "--recipe", recipe, "--json", *more, environment=environment)
        return [{row["name"]: row["runtime"] for row in results["rows"]} for results in json.loads(printed)]

    measured = rows()
    assert [list(one) for one in measured] == 2 * [["torch-fp16", "torch-bf16", "torch-fp32", "onnx-int8"]]
    assert {path.parent.name for path in out.rglob("results.json")} == {"local", "step1"}
    cache, folder = Cache("measurements", 10**9), tmp_path / "cache" / "measurements"
    with mock.patch.dict(os.environ, environment):
        for path in folder.iterdir():
            measurement = json.loads(cache.read(path.name) or "")
            cache.write(path.name, json.dumps(measurement | {"runtime": "that of the cache"}).encode())
    assert [set(list(one.values())[:3]) for one in rows()] == 2 * [{"that of the cache"}]
    assert rows("--again") == measured


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
    marked = json.loads(json.loads(done.read_text())["measurement"]) | {"runtime": "what the killed one measured"}
    done.write_text(_sealed(json.dumps(marked).encode()))
    results = json.loads(succeed(*command[3:], "--json"))
    assert results["rows"][0]["runtime"] == "what the killed one measured"
    assert not list(parent.glob(".results*"))
