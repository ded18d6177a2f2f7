"""A study from its checkpoints to its table: the same whatever happens to it on the way."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_user import Client
from loopback import loopback_hub
from passages import write_passages
from program import run, succeed
from studies import STEPS, STUDY, write_study
from tiny import TINY, random_weights, write_checkpoint, write_recipe

from pythia_quant.library.results import Results
from pythia_quant.sweep.store import Store
from pythia_quant.sweep.table import VOLATILE, read_table

Lines = list[dict[str, Any]]


def stable(out: Path) -> Lines:
    """Return a table without what differs from run to run."""
    return [
        {name: value for name, value in line.items() if name not in VOLATILE}
        for line in read_table(out / "table.parquet")
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(study: Path) -> Path:
    out = study.parent / "undisturbed"
    done = run("sweep", study, "--out", out, "--workers", "1")
    assert done.returncode == 4
    assert "39 jobs are done, 3 failed, 3 are of revisions that do not exist." in done.stdout
    assert done.stderr.count("/39] ") == 39
    assert done.stderr.count(" failed: ") == 3
    return out


def test_every_job_has_a_line_that_says_what_it_came_to(undisturbed: Path) -> None:
    lines = stable(undisturbed)
    assert len(lines) == 3 * (4 + 8 + 3)
    assert [line["variant"] for line in lines[:3]] == ["torch-fp16", "gptq-int4", "onnx-int8"]
    status = {(line["seed"], line["step"]): line["status"] for line in lines}
    assert status[(1, 2)] == "missing"
    assert status[(3, 8)] == "failed"
    assert set(status.values()) == {"done", "missing", "failed"}
    assert sum(line["status"] == "done" for line in lines) == 39
    repeated = [line for line in lines if line["duplicate_of"]]
    assert {(line["seed"], line["step"]) for line in repeated} == {(2, 32)}
    assert all(line["duplicate_of"].endswith("seed2@step64") for line in repeated)
    twin = [line for line in lines if (line["seed"], line["step"]) == (2, 64)]
    assert [line["key"] for line in repeated] == [line["key"] for line in twin]
    for line in lines:
        if line["status"] == "done":
            assert line["kl_low"] <= line["kl"] <= line["kl_high"]
            assert line["tokens"] == 100 * line["step"]
            assert (line["windows"], line["context"], line["parameters"]) == (3, 32, TINY.parameters)
    assert not (undisturbed / "work").exists()


def test_the_numbers_are_those_of_bench(undisturbed: Path, study: Path, one_thread: None) -> None:
    model = study.parent / "runs/seed1/step4"
    settings = ("--set", "evaluation.windows=3", "--set", "calibration.windows=12", "--set", "latency.rounds=0")
    out = study.parent / "bench"
    succeed(
        "run", study.parent / "tiny.yaml", "--model", model, "--only", "gptq-int4", "--only", "onnx-int8", *settings,
        "--threads", "1", "--out", out,
    )  # fmt: skip
    measured = Results.load(out / "step4/local")
    for line in stable(undisturbed):
        if (line["seed"], line["step"]) == (1, 4) and line["variant"] != "torch-fp16":
            value = measured[line["variant"]]["kl"]
            expected = (value.value, value.low, value.high)
            assert (line["kl"], line["kl_low"], line["kl_high"]) == expected


def test_what_is_done_is_not_done_again(undisturbed: Path, study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "store/results").iterdir()}
    expected = stable(undisturbed)
    done = run("sweep", study, "--out", undisturbed)
    assert done.returncode == 4
    assert "0 are left" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (undisturbed / "store/results").iterdir()} == before
    assert stable(undisturbed) == expected
    elsewhere = study.parent / "elsewhere"
    run("sweep", study, "--out", elsewhere, "--store", undisturbed / "store")
    assert stable(elsewhere) == expected


def test_the_same_study_in_another_place_is_done_already(undisturbed: Path, study: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(study.parent, tmp_path / "moved", ignore=shutil.ignore_patterns("undisturbed*")))
    done = run("sweep", moved / study.name, "--out", tmp_path / "out", "--store", undisturbed / "store")
    assert " 0 are left" in done.stderr
    assert [line["kl"] for line in stable(tmp_path / "out")] == [line["kl"] for line in stable(undisturbed)]


def test_the_report_is_made_again_from_the_table_alone(undisturbed: Path, tmp_path: Path) -> None:
    table = Path(shutil.copytree(undisturbed, tmp_path / undisturbed.name)) / "table.parquet"
    shutil.rmtree(table.parent / "store")
    written = json.loads(succeed("sweep", "report", table, "--out", tmp_path / "again", "--json"))
    page = (undisturbed / "report/index.html").read_bytes()
    assert Path(written["page"]).read_bytes() == page
    assert b"The law" in page
    both = succeed("sweep", "report", table, undisturbed, "--out", tmp_path / "both")
    assert both == f"Report: {tmp_path / 'both' / 'index.html'}\n"
    refused = run("sweep", "report", undisturbed / "table.csv", "--out", tmp_path / "none")
    assert (refused.returncode, "no table of a study" in refused.stderr) == (2, True)
    assert not (tmp_path / "none").exists()


def test_lambada_is_measured_where_the_study_asks_for_it(tmp_path: Path) -> None:
    recipe, passages = write_recipe(tmp_path), write_passages(tmp_path)
    study = tmp_path / "study.yaml"
    study.write_text(
        f"schema: 1\nrecipe: {recipe}\nvariants: [onnx-fp32]\nlambada: true\n"
        f'settings: {{evaluation.windows: 2, tasks.lambada.file: "{passages}"}}\n'
        "sources:\n  - {model: ./tiny, size: tiny}\n"
    )
    assert run("sweep", study, "--out", tmp_path / "out").returncode == 0
    floor, variant = stable(tmp_path / "out")
    assert floor["lambada_accuracy"] == variant["lambada_accuracy"]
    assert floor["lambada_perplexity"] == pytest.approx(variant["lambada_perplexity"], rel=1e-2)


def test_failed_jobs_are_done_again_when_that_is_asked_for(undisturbed: Path, study: Path) -> None:
    store = Store(str(undisturbed / "store"))
    assert len(store.failed()) == 3
    done = run("sweep", study, "--out", undisturbed, "--retry-failed")
    assert "[3/3] " in done.stderr
    assert len(store.failed()) == 3


@pytest.mark.fresh_processes
def test_a_study_that_is_killed_goes_on_and_has_the_same_table(undisturbed: Path, study: Path) -> None:
    part, out = study.with_name("part.yaml"), study.parent / "killed"
    part.write_text(
        "".join(line for line in STUDY.splitlines(keepends=True) if "seed2" not in line and "seed3" not in line)
    )
    moments = random.Random(seed := random.SystemRandom().randrange(1000))
    for number in (signal.SIGKILL, signal.SIGTERM):
        command = [sys.executable, "-m", "pythia_quant", "sweep", str(part), "--out", str(out), "--quiet"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(moments.uniform(2, 7))
        process.send_signal(number)
        assert process.wait() in (-number, 128 + number, 4), seed
    assert run("sweep", part, "--out", out).returncode == 4
    assert stable(out) == [line for line in stable(undisturbed) if line["seed"] == 1], seed
    assert sorted(path.name for path in out.iterdir()) == ["report", "store", "table.csv", "table.parquet"]


def test_sources_of_a_hub_leave_the_cache_when_they_are_measured(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    revisions = {"main": tmp_path / "tiny"}
    for step in STEPS[:3]:
        revisions[f"step{step}"] = write_checkpoint(
            tmp_path / f"step{step}", weights=random_weights(TINY, seed=step + 1)
        )
    study = tmp_path / "study.yaml"
    study.write_text(
        f"schema: 1\nrecipe: {recipe}\nvariants: [onnx-fp32]\nfloor: false\nsettings: {{evaluation.windows: 2}}\n"
        "sources:\n  - {model: someone/tiny, revisions: 'all,main,lost'}\n"
    )
    with loopback_hub() as hub:
        hub.add("someone/tiny", revisions)
        client = Client(hub, tmp_path / "home")
        planned = client.run("sweep", study, "--out", tmp_path / "out", "--dry-run")
        assert "no such revision: someone/tiny@lost" in planned.stderr
        assert not list((tmp_path / "home").rglob("model.safetensors"))
        asked = len(hub.requests)
        done = client.run("sweep", study, "--out", tmp_path / "out")
        # The plan looks at one source for its shape; each of four tasks locates its own once.
        assert sum(line.endswith("/config.json") for line in hub.requests[asked:]) == 1 + 4
    assert done.returncode == 4
    lines = stable(tmp_path / "out")
    assert [line["status"] for line in lines] == ["done"] * 4 + ["missing"]
    assert len({line["weights_sha256"] for line in lines[:4]}) == 4
    weights = [path for path in (tmp_path / "home").rglob("model.safetensors") if path.exists()]
    assert weights == []
