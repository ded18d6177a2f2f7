"""What the command line says instead of a recipe, and what of a recipe is looked at."""

from dataclasses import replace
from pathlib import Path

import pytest
from heard import Heard
from tiny import TINY, write_checkpoint

from pythia_quant.artifacts.inputs import load_inputs
from pythia_quant.core.errors import CorpusError, RecipeError
from pythia_quant.recipe.overrides import fit_context, override, without_fetched_passages
from pythia_quant.recipe.recipe import load_recipe


def test_only_what_is_chosen_is_checked_and_loaded(recipe_file: Path) -> None:
    """Width 48 has no groups of 32; the calibration text that bnb-nf4 does not take is not there."""
    write_checkpoint(recipe_file.parent / "tiny", replace(TINY, width=48, mlp_width=192))
    recipe = override(load_recipe(recipe_file), calibration=recipe_file.parent / "missing.txt")
    inputs = load_inputs(recipe, only=["bnb-nf4", "onnx-fp32"])
    assert (len(inputs.evaluation), inputs.calibration_record) == (6, None)
    assert load_inputs(recipe, convert=False).calibration_record is None
    with pytest.raises(RecipeError, match=r"variants\.gptq-int4\.group_size"):
        load_inputs(recipe, only=["gptq-int4"])


def test_a_text_of_fewer_windows_than_are_asked_for_is_said(recipe_file: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("windows: 6", "windows: 6000"))
    heard = Heard()
    inputs = load_inputs(load_recipe(recipe_file), heard, convert=False)
    found = len((recipe_file.parent / "evaluation.txt").read_bytes()) // TINY.context
    assert len(inputs.evaluation) == found
    assert heard.notices == [f"The evaluation text has {found} windows; the recipe asks for 6,000."]


def test_a_text_without_a_window_is_named(recipe_file: Path) -> None:
    for option in ("text", "calibration"):
        short = recipe_file.parent / f"{option}.txt"
        short.write_text("hello")
        with pytest.raises(CorpusError, match=rf"{option}\.txt: has 5 tokens, a window takes 32"):
            load_inputs(override(load_recipe(recipe_file), **{option: short}))  # type: ignore[arg-type]


def test_a_recipe_needs_no_calibration_unless_a_chosen_variant_does(recipe_file: Path) -> None:
    lines = recipe_file.read_text().splitlines(keepends=True)
    start = lines.index("calibration:\n")
    recipe_file.write_text("".join(lines[:start] + lines[start + 3 :]))
    recipe = load_recipe(recipe_file)
    assert "calibration" not in recipe.canonical()
    assert load_inputs(recipe, only=["onnx-int8"]).calibration_record is None
    with pytest.raises(RecipeError, match="calibration: is missing, and gptq-int4 needs it"):
        load_inputs(recipe)
    given = override(recipe, calibration=recipe_file.parent / "calibration.txt", context=16)
    assert given.settings.calibration is not None
    assert (given.settings.calibration.context, given.settings.evaluation.context) == (16, 16)


def test_the_context_of_another_model_is_taken_with_a_notice() -> None:
    heard = Heard()
    recipe = override(load_recipe("pythia-14m"), model="me/mine")
    fitted = fit_context(recipe, replace(TINY, context=512), heard)
    assert fitted.settings.calibration is not None
    assert (fitted.settings.evaluation.context, fitted.settings.calibration.context) == (512, 512)
    assert heard.notices == ["the model has a context of 512 tokens, the recipe is for another: 512 is taken"]
    fitted.check_fits(replace(TINY, context=512), [])
    longer = fit_context(recipe, replace(TINY, context=4096), heard)
    assert (longer.settings.evaluation.context, len(heard.notices)) == (4096, 2)
    theirs = replace(recipe, path=Path("theirs.yaml"))  # who knows why it says 2048
    assert fit_context(theirs, replace(TINY, context=4096), heard) == theirs
    own = load_recipe("pythia-14m")  # of its own model it is an error
    assert fit_context(own, replace(TINY, context=512), heard) == own
    with pytest.raises(RecipeError, match=r"pythia-14m\.yaml:\d+: .*2048 exceeds the model's context 512"):
        own.check_fits(replace(TINY, context=512), [])
    asked = fit_context(override(recipe, context=600), replace(TINY, context=512), heard)
    with pytest.raises(RecipeError, match="--context: 600 exceeds the model's context 512"):
        asked.check_fits(replace(TINY, context=512), [])


def test_passages_are_not_fetched_when_all_texts_are_files(tmp_path: Path) -> None:
    recipe, heard = load_recipe("pythia-14m"), Heard()
    text = override(recipe, text=tmp_path / "a.txt")
    both = override(text, calibration=tmp_path / "b.txt")

    def fetches(one: object, names: list[str]) -> bool:
        return without_fetched_passages(one, names, heard).settings.tasks.lambada is not None  # type: ignore[arg-type]

    assert recipe.settings.tasks.lambada
    assert fetches(recipe, ["onnx-int8"])
    assert fetches(text, ["gptq-int4"])
    assert fetches(text, ["onnx-int4"])  # in the integers of gptq-int4
    assert not fetches(text, ["onnx-int8"])
    assert not fetches(both, ["gptq-int4"])
    assert fetches(override(both, lambada=tmp_path / "c.jsonl"), ["gptq-int4"])
    assert not override(recipe, lambada=False).settings.tasks.lambada
    assert len(heard.notices) == 2


def test_users_that_there_are_not_and_links_in_a_circle_are_left_to_the_reader_of_the_text(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe_file.parent)
    Path("circle").symlink_to("circle")
    for name in ("~nobody-of-this-name/text", "circle"):
        recipe = override(load_recipe(recipe_file.name), text=Path(name))
        with pytest.raises(CorpusError, match="there is no such file"):
            load_inputs(recipe, only=["bnb-nf4"])
    recipe_file.write_text(recipe_file.read_text().replace("evaluation.txt", "~nobody-of-this-name/text"))
    assert override(load_recipe(recipe_file.name)).settings.evaluation.text.file is not None
