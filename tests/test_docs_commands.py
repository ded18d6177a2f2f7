"""What the tutorial and the page on own models say to type is run, with few windows."""

import os
from dataclasses import replace
from pathlib import Path
from random import Random
from string import ascii_lowercase

import pytest
from documents import DOCS, blocks, commands, run, shortened
from tiny import TINY, write_checkpoint

from pythia_quant.artifacts.inputs import load_inputs
from pythia_quant.recipe.recipe import load_recipe

GATES = (0, 3, 4)
"""Exit codes of a measurement: with few windows, gates are undecided."""
OFFLINE = {"HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def demo_texts() -> None:
    """Have what is found out about the demo's texts in the cache; it takes as long as all commands together."""
    load_inputs(load_recipe("demo"), only=["onnx-int8"])


@pytest.fixture(scope="module")
def tutorial(demo_texts: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


def test_the_texts_of_the_demo_are_there(demo_texts: None) -> None:
    assert list((Path(os.environ["PYTHIA_QUANT_CACHE"]) / "texts").iterdir())


def test_the_tutorial_measures_the_demo(tutorial: Path) -> None:
    show, measure = commands("tutorial.md")[:2]
    assert run(show, tutorial).returncode == 0
    recipe = tutorial / "mine.yaml"
    assert recipe.read_text() == load_recipe("demo").path.read_text()
    recipe.write_text(shortened(recipe.read_text(), "onnx-int8", "gptq-int4"))
    done = run(f"{measure} --only onnx-int8 --threads 1", tutorial)
    assert done.returncode == 0, done.stderr


def test_the_tutorial_goes_on_from_what_was_measured(tutorial: Path) -> None:
    for command in commands("tutorial.md")[2:-2]:
        done = run(command, tutorial)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout
    assert (tutorial / "report" / "index.html").exists()


def test_the_tutorial_changes_a_setting(tutorial: Path) -> None:
    recipe = tutorial / "mine.yaml"
    recipe.write_text(recipe.read_text().replace("bits: 4", "bits: 3"))
    validate, measure = commands("tutorial.md")[-2:]
    assert run(validate, tutorial).returncode == 0
    done = run(measure.replace(" run ", " convert "), tutorial)
    assert done.returncode == 0, done.stderr
    assert (tutorial / "three-bits" / "demo" / "builtin" / "gptq-int4" / "model.safetensors").exists()


def test_the_tables_rows_are_those_of_the_readme() -> None:
    (table,) = blocks((DOCS / "tutorial.md").read_text(), "text")
    readme = (DOCS.parent / "README.md").read_text().splitlines()
    assert all(line.rstrip() in [row.rstrip() for row in readme] for line in table.splitlines())


@pytest.fixture(scope="module")
def own_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model of a context of its own, and two texts of a few windows."""
    folder = tmp_path_factory.mktemp("own")
    write_checkpoint(folder / "my-model", replace(TINY, width=128, mlp_width=512, context=64))
    for name, length, seed in (("heldout.txt", 1_200, 0), ("train.txt", 9_000, 1)):  # a token is a byte
        words = Random(seed)
        (folder / name).write_text("".join(words.choices(ascii_lowercase + " ", k=length)))
    return folder


OWN = commands("own-model.md")


@pytest.mark.parametrize("command", [command for command in OWN if " run " in command])
def test_an_own_model_is_quantized_without_the_network(command: str, own_model: Path) -> None:
    done = run(command.replace(" run ", " convert "), own_model, os.environ | OFFLINE)
    assert done.returncode == 0, done.stderr
    assert "64 is taken" in done.stderr or "--context" in command


@pytest.mark.slow
def test_an_own_model_is_measured_and_run_without_the_network(own_model: Path) -> None:
    for command in OWN:
        done = run(command, own_model, os.environ | OFFLINE)
        assert done.returncode in (GATES if " run " in command else (0,)), (command, done.stderr)
        assert done.stdout
