"""A conversion that was stopped goes on at the layer it had reached, and ends with the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gptq_models import CALIBRATION, PROBE, source
from heard import Heard
from waiting import names_below

from pythia_quant.artifacts.artifact import hash_files
from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.core.errors import ArtifactError, QuantizationError
from pythia_quant.formats.gptq.writer import write
from pythia_quant.formats.job import Job
from pythia_quant.formats.solving.work_folder import WorkFolder
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.recipe.variants import GptqSettings

VARIANT = "gptq-int4"


class Stop(BaseException):
    """What no handler of errors catches, as an interruption is."""


def stop_at(layer: int) -> Heard:
    def stop(done: int) -> None:
        if done == layer:
            raise Stop

    return Heard(stop)


@pytest.fixture
def inputs(recipe_file: Path) -> Inputs:
    return load_inputs(load_recipe(recipe_file))


def test_it_goes_on_at_the_layer_it_had_reached(tmp_path: Path) -> None:
    weights = source(tmp_path / "source")

    def job(folder: str, work: Path | None, stop: int = -1) -> tuple[Job[GptqSettings], Heard]:
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
        (tmp_path / folder).mkdir()
        heard = stop_at(stop)
        settings = GptqSettings(format="gptq", head="quantized")
        return Job(weights, settings, tmp_path / folder, PROBE, CALIBRATION, heard, work), heard

    whole, _ = job("whole", None)
    written = write(whole)
    work = tmp_path / "work"
    for stop in (0, 1, 0):  # the last: before the head
        stopped, _ = job("stopped", work, stop)
        with pytest.raises(Stop):
            write(stopped)
    assert WorkFolder(work).solved_layers == 2
    resumed, heard = job("stopped", work)
    again = write(resumed)
    assert [done for _, done, _ in heard.steps] == [0]  # the head only
    assert hash_files(tmp_path / "stopped") == hash_files(tmp_path / "whole")
    assert again.notes == written.notes
    assert (again.logits == written.logits).all()


def test_a_killed_process_is_gone_on_from(inputs: Inputs, recipe_file: Path, tmp_path: Path) -> None:
    expected = convert(inputs, VARIANT, tmp_path / "expected")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pythia_quant", "convert", str(recipe_file), "--only", VARIANT, "--out", str(out)]
    child = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    while "layer-0.json" not in names_below(out):
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = next(out.rglob(f".{VARIANT}.work-*"))
    assert not list(out.rglob("pythia_quant.json"))
    artifact = convert(inputs, VARIANT, out)
    assert artifact.manifest.files == expected.manifest.files
    assert not left.exists()
    assert not list(artifact.folder.parent.glob(".*"))


def test_work_for_something_else_is_thrown_away(inputs: Inputs, tmp_path: Path) -> None:
    expected = convert(inputs, VARIANT, tmp_path / "expected")
    other = (
        tmp_path / "out" / expected.folder.relative_to(tmp_path / "expected").parent / f".{VARIANT}.work-0123456789ab"
    )
    other.mkdir(parents=True)
    (other / "reached.json").write_text("2")
    assert convert(inputs, VARIANT, tmp_path / "out").manifest.files == expected.manifest.files
    assert not other.exists()


def test_an_error_leaves_nothing(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(done: int) -> None:
        if done == 1:
            raise QuantizationError("as if a layer could not be solved")

    with pytest.raises(QuantizationError):
        convert(inputs, VARIANT, tmp_path / "out", progress=Heard(fail))
    assert not list((tmp_path / "out").rglob(".*"))


def test_two_processes_do_not_share_a_target(inputs: Inputs, tmp_path: Path) -> None:
    def convert_too(_done: int) -> None:
        with pytest.raises(ArtifactError, match="another process is at work on it"):
            convert(inputs, VARIANT, tmp_path / "out")
        raise Stop

    with pytest.raises(Stop):
        convert(inputs, VARIANT, tmp_path / "out", progress=Heard(convert_too))
