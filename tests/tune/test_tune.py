"""A search from its recipe to the recipe that it writes: killed, repeated, without a choice, and with every choice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from planted import planted_recipe
from program import run
from scipy import stats
from waiting import wait_for

from pythia_quant.artifacts.convert import convert_checked_by
from pythia_quant.core.console import progress_console
from pythia_quant.core.process import Here
from pythia_quant.core.progress import SILENT, Steps
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.tune.budget import Budget
from pythia_quant.tune.job import open_inputs, tune
from pythia_quant.tune.outcome import Outcome, margin_sentence, remarks
from pythia_quant.tune.sensitivity import Search
from pythia_quant.tune.texts import Part, TextChoice
from pythia_quant.tune.together import Together

TEXTS = TextChoice(search_windows=8, selection_windows=16)
LIMIT = Budget("size", {"max_kl": 5.0})


def tuned(recipe: Path, out: Path, budget: Budget = LIMIT, variant: str = "onnx-int8") -> Outcome:
    with Steps(6, progress_console) as steps:
        return tune(load_recipe(recipe), [variant], out, budget, TEXTS, steps, measures=False, runner=Here(1))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_recipe(tmp_path_factory.mktemp("planted")).path


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Outcome:
    return tuned(recipe, recipe.parent / "whole")


def test_the_recipe_that_is_written_gives_the_bytes_that_were_measured(recipe: Path, whole: Outcome) -> None:
    assert whole.recipe is not None
    written = load_recipe(whole.recipe)
    with Steps(1, progress_console) as steps:
        inputs = open_inputs(written, ["onnx-int8-tuned"], steps)
    artifact = convert_checked_by(
        Here(1), inputs, "onnx-int8-tuned", recipe.parent / "again", overwrite=False, progress=SILENT
    )
    assert {name: file.sha256 for name, file in artifact.manifest.files.items()} == whole.lines[0].trial.files
    assert written.settings.variants["onnx-int8-tuned"] != load_recipe(recipe).settings.variants["onnx-int8"]


def test_the_choice_is_within_the_budget_with_the_margin_that_is_said(whole: Outcome) -> None:
    best = whole.found["onnx-int8"].best
    assert best is not None
    # The prediction interval of one more stretch, by scipy's quantiles and the windows themselves.
    drift = best.results.rows[0].as_run
    assert drift is not None
    stretches = 1000 * np.reshape(drift.kl, (8, -1)).mean(1)
    interval = stats.t.ppf(0.975, 7) * stretches.std(ddof=1) * np.sqrt(1 + 1 / 8)
    widest = stretches.mean() + max(interval, 0.25 * stretches.mean())
    assert LIMIT.use_elsewhere(best.results) == pytest.approx(widest / 5, rel=1e-3)
    assert widest <= 5
    assert f"{100 * widest / 5:.0f} %" in margin_sentence(whole)
    assert whole.cost.search > 0
    assert whole.cost.once > 0


def test_a_margin_of_ones_own_replaces_it(whole: Outcome) -> None:
    results = whole.found["onnx-int8"].nearest.results
    half = Budget("size", {"max_kl": 5.0}, margin=0.5)
    assert half.use_elsewhere(results) == pytest.approx(2 * LIMIT.use(results))
    # Text of several kinds says itself how much these differ: no least share is kept.
    kinds = Budget("size", {"max_kl": 5.0}, least_margin=0.0)
    assert LIMIT.use(results) < kinds.use_elsewhere(results) <= LIMIT.use_elsewhere(results)


def test_a_killed_search_goes_on_to_the_same_recipe(recipe: Path, whole: Outcome) -> None:
    out = recipe.parent / "killed"
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[3:]; from test_tune import tuned;"
        "tuned(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    child = subprocess.Popen([sys.executable, "-c", script, recipe, out, *places], stderr=subprocess.DEVNULL)
    wait_for(lambda: child.poll() is not None or any(out.glob("*/*/trials/*.json")))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*/trials/*.json")}
    assert kept
    (sensitivity,) = out.glob("*/*/sensitivity-onnx-int8.json")
    found_at = sensitivity.stat().st_mtime_ns
    outcome = tuned(recipe, out)
    assert outcome.recipe is not None
    assert whole.recipe is not None
    assert outcome.recipe.read_text() == whole.recipe.read_text()
    assert outcome.lines[0].trial.files == whole.lines[0].trial.files
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert sensitivity.stat().st_mtime_ns == found_at
    assert not list(out.glob("*/*/artifacts"))


def test_a_budget_that_everything_meets_is_said(recipe: Path, whole: Outcome) -> None:
    outcome = tuned(recipe, recipe.parent / "whole", Budget("size", {"max_kl": 1e6}))
    best = outcome.found["onnx-int8"].best
    assert best is not None
    assert set(best.choices.values()) == {"int4/64"}
    assert "every choice meets the budget; the smallest uses 0 % of it" in remarks(outcome)[0]
    assert best.bytes < whole.lines[0].trial.bytes


def test_a_budget_that_nothing_meets_ends_with_3_and_the_nearest(recipe: Path, whole: Outcome) -> None:
    out = recipe.parent / "whole"
    outcome = tuned(recipe, out, Budget("size", {"max_kl": 1e-12}))
    assert outcome.recipe is None
    said = remarks(outcome)[0]
    assert "no choice meets the budget; the nearest is layers fp32, embeddings fp32, head fp32" in said
    arguments: list[str | Path] = ["--selection-windows", "16", "--search-windows", "8", "--predict", "--out", out]
    done = run("tune", recipe, "--only", "onnx-int8", "--size", "100kB", *arguments)
    assert done.returncode == 3, done.stderr
    assert "no choice meets the budget; the nearest is layers int4/64" in done.stdout
    assert whole.recipe is not None


def test_choices_are_foreseen_as_they_are_measured(recipe: Path, whole: Outcome, tmp_path: Path) -> None:
    with Steps(1, progress_console) as steps:
        inputs = open_inputs(load_recipe(recipe), ["onnx-int8"], steps)
    # The line of the evaluation text reads its weights back from the artifact, and compares all positions.
    text = Part(inputs.evaluation_text, inputs.evaluation)
    together = Together(Search(inputs, "onnx-int8", text, tmp_path, measures=False), tmp_path, SILENT)
    measured = whole.lines[0].trial
    assert together.divergence(measured.choices) == pytest.approx(measured.of_weights, rel=1e-3)
    assert measured.of_weights < measured.kl
