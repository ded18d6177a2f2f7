import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from tiny import TINY

from pythia_quant.core.errors import RecipeError
from pythia_quant.model.source import open_source
from pythia_quant.model.suite import SIZES
from pythia_quant.recipe.choices import formats_at, values_at
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import RecipeSettings, load_recipe, shipped_recipes

Edit = Callable[[str], str]


def replaced(before: str, after: str) -> Edit:
    def edit(text: str) -> str:
        assert before in text
        return text.replace(before, after, 1)

    return edit


@pytest.mark.parametrize(
    ("edit", "line", "message"),
    [
        (replaced("group_size: 32", "group_sise: 32"), 11, "gptq-int4.group_sise.*'group_size'"),
        (replaced("group_size: 32", "group_size: 48"), 11, "group_size: 48 is not possible.*32"),
        (replaced("group_size: 32", 'group_size: "32"'), 11, "without quotes"),
        (replaced("format: gptq", "format: gptg"), 11, "'gptg' is no format.*'gptq'"),
        (replaced("format: gptq, ", ""), 11, "say format"),
        (replaced("schema: 1", "schema: 9"), 1, "schema: 9"),
        (replaced("schema: 1", "schema: 1\nextra: 2"), 2, "unknown key 'extra'"),
        (replaced("windows: 16", "windows: many"), 5, "windows: 'many' is of the wrong type"),
        (replaced("windows: 16", "windows: 0"), 5, "calibration.windows"),
        (replaced("  onnx-int8: {format", "  bnb-nf4: {format"), 12, "line 10 already"),
        (replaced("  onnx-int8: {format", "  ../up: {format"), 12, r"\.\./up"),
        (replaced("  onnx-int8: {format", "  torch-fp16: {format"), 12, "source's own row"),
        (replaced("  onnx-int8: {max", "  onnx-int4: {max"), 15, "no variant.*'onnx-int8'"),
        (replaced("schema: 1", "schema: 1\nbasis: {evaluation.window: 'assumed: x'}"), 2, "'evaluation.windows'"),
        (
            replaced("schema: 1", "schema: 1\nbasis: {evaluation.windows: 'guess: x'}"),
            2,
            "measured | derived | assumed",
        ),
        (replaced("embeddings: fp32", "embeddings: fp32, block_size: 48"), 13, "48 is not possible"),
        (replaced("weights: fp32, activations: fp32", "weights: fp32"), 13, "say activations: fp32"),
        (replaced("variants:", "variants: ["), 11, "not valid YAML"),
        (lambda text: text[: text.index("variants:")], 1, "variants: is required"),
        (replaced("windows: 16", "windows: 0"), 5, "1 is the least"),
        (replaced("windows: 16", "windows: 1000000000"), 5, "1000000 is the most"),
        (replaced("windows: 16", "windows: " + "9" * 400), 5, "no number"),
        (replaced("windows: 16", "windows: 0b_"), 5, "no number"),
        (replaced("windows: 16", "windows: 16\n  seed: -1"), 6, "seed.*0 is the least"),
        (replaced("windows: 16", "windows: 2024-01-01"), 5, "'2024-01-01' is of the wrong type"),
        (replaced("schema: 1", "schema: 1\nextra: !!timestamp abc"), 2, "tags such as"),
        (replaced("schema: 1", "schema: 1\nextra: {<<: {b: 1}}"), 2, "unknown key 'extra'"),
        (replaced("schema: 1", "schema: 1\n1: x"), 2, "'1' is no key"),
        (replaced("schema: 1", "schema: 1\n? [a]\n: x"), 2, "no key"),
        (replaced("schema: 1", "schema: 1\nextra: &a [1]\nmore: *a"), 3, "aliases"),
        (replaced("schema: 1", "schema: 1\nextra: " + "[" * 5000), 2, "levels"),
        (replaced("schema: 1", 'schema: 1\nextra: "\\UFFFFFFFF"'), 2, "not valid YAML"),
        (replaced("schema: 1", 'schema: 1\nextra: "\\ud800"'), 2, "control character"),
        (replaced("schema: 1", "schema: 1\nextra: \x1b[2J"), 2, "x1b is not allowed"),
        (replaced("schema: 1", "schema: 1\n" + "k" * 900 + ": 1"), 2, "unknown key"),
        (replaced("{model:", "{revision: '', model:"), 2, "source.revision.*not be empty"),
        (replaced("  onnx-int8: {format", "  CON: {format"), 12, "something else"),
        (replaced("  onnx-int8: {format", "  results.json: {format"), 12, "something else"),
        (replaced("  onnx-int8: {format", "  -rf: {format"), 12, "folder's"),
        (replaced("  onnx-int8: {format", "  BNB-nf4: {format"), 12, "one folder on some systems"),
        (replaced("  onnx-int8: {format", "  ۳: {format"), 12, "folder's"),
        (replaced("source: {", "source: !!python/object/apply:os.getcwd {"), 2, "tags such as"),
    ],
)
def test_an_error_names_file_line_key_and_the_remedy(recipe_file: Path, edit: Edit, line: int, message: str) -> None:
    load_recipe(recipe_file)
    recipe_file.write_text(edit(recipe_file.read_text()))
    with pytest.raises(RecipeError, match=f"(?s){re.escape(str(recipe_file))}:{line}: .*{message}"):
        load_recipe(recipe_file)


@pytest.mark.parametrize("content", ["", "just text", "- a list", "schema: [", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(path)


def test_settings_that_do_not_fit_the_model_point_at_their_line(recipe_file: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("group_size: 32", "group_size: 128"))
    with pytest.raises(
        RecipeError, match=r"(?s):11: .*group_size: 128 does not divide .* 64 and 256; choose from: 32, 64"
    ):
        load_recipe(recipe_file).check_fits(TINY)
    recipe_file.write_text(
        recipe_file.read_text().replace("group_size: 128", "group_size: 64").replace("windows: 6", "context: 64")
    )
    with pytest.raises(RecipeError, match=r"context: 64 exceeds the model's context 32"):
        load_recipe(recipe_file).check_fits(TINY)


def test_the_id_follows_the_content_and_not_the_layout(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    recipe_file.write_text("# a comment\n" + yaml.safe_dump(yaml.safe_load(recipe_file.read_text())))
    assert load_recipe(recipe_file).id == recipe.id
    recipe_file.write_text(recipe_file.read_text().replace("windows: 16", "windows: 17"))
    assert load_recipe(recipe_file).id != recipe.id


def test_the_command_line_overrides_and_local_files_become_absolute(recipe_file: Path, tmp_path: Path) -> None:
    recipe = override(load_recipe(recipe_file), model="x/y", revision="step1", calibration=tmp_path / "other.txt")
    assert (recipe.settings.source.model, recipe.settings.source.revision) == ("x/y", "step1")
    assert recipe.settings.calibration is not None
    assert recipe.settings.calibration.text.file == str(tmp_path / "other.txt")
    assert recipe.settings.evaluation.text.file == str(tmp_path / "evaluation.txt")
    assert recipe.settings.evaluation.windows == 6


def test_only_names_variants_of_the_recipe(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert list(recipe.variants(["onnx-fp32", "bnb-nf4"])) == ["bnb-nf4", "onnx-fp32"]
    with pytest.raises(RecipeError, match="did you mean 'bnb-nf4'"):
        recipe.variants(["bnb-nf5"])


def test_every_size_has_a_recipe_and_all_fit_their_model() -> None:
    assert list(shipped_recipes()) == ["demo", *(f"pythia-{size}" for size in SIZES)]
    for name in shipped_recipes():
        recipe = load_recipe(name)
        recipe.check_suite()
        assert set(recipe.settings.variants) == {
            "bnb-nf4", "gptq-int4", "onnx-int8", "onnx-int8-dynamic", "onnx-int4", "gguf-q4", "gguf-q8",
            "onnx-fp32",
        }  # fmt: skip


def test_each_setting_that_differs_by_size_says_on_what_basis() -> None:
    recipes = [load_recipe(f"pythia-{size}").settings for size in SIZES]

    def leaves(data: object, prefix: str = "") -> dict[str, object]:
        if not isinstance(data, dict):
            return {prefix: data}
        return {k: v for key, value in data.items() for k, v in leaves(value, f"{prefix}.{key}".lstrip(".")).items()}

    flat = [leaves(recipe.model_dump(exclude={"basis"})) for recipe in recipes]
    differing = {key for key in flat[0] if len({str(recipe[key]) for recipe in flat}) > 1} - {"source.model"}
    assert differing
    for recipe in recipes:
        assert differing <= set(recipe.basis)


def changed(folder: Path, before: str, after: str) -> Path:
    path = folder / "changed.yaml"
    path.write_text(replaced(before, after)(shipped_recipes()["demo"].read_text()))
    return path


@pytest.mark.parametrize(("limit", "value"), [("0.5 %", 0.5), ("0.5%", 0.5), ("0.5", 0.5)])
def test_a_limit_may_be_written_with_its_unit(tmp_path: Path, limit: str, value: float) -> None:
    path = changed(tmp_path, "max_ppl_drift: 0.5 %, max_kl: 1 mnat", f"max_ppl_drift: {limit}, max_kl: 1 mnat")
    gates = load_recipe(path).settings.gates["onnx-int8"]
    assert (gates.max_ppl_drift, gates.max_kl) == (value, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_kl: 1 mnat", "max_kl: 1 nat", "'1 nat' is no limit; give a number, of mnat"),
        ("rounds: 2", "rounds: 2\n  prompts: [0]", "0 is no length"),
        ("rounds: 2", "rounds: 2\n  prompts: [600]", "600 exceed the model's context 512"),
        ("rounds: 2", "rounds: 2\n  contexts: [500]", "500 and 66 decoded tokens exceed"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(RecipeError, match=message) as refused:
        load_recipe(path).check_fits(open_source("builtin:demo").architecture)
    assert f"{path}:" in str(refused.value)


def test_every_quantized_variant_of_every_shipped_recipe_has_a_limit_on_divergence_with_a_reason() -> None:
    for name in shipped_recipes():
        settings = load_recipe(name).settings
        for variant, quantized in settings.variants.items():
            if min(quantized.stored_bits()) < 16:
                assert settings.gates[variant].max_kl is not None, (name, variant)
                assert f"gates.{variant}.max_kl" in settings.basis, (name, variant)


def test_a_folder_called_like_a_shipped_recipe_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone of pythia-14m is called so."""
    monkeypatch.chdir(tmp_path)
    Path("pythia-14m").mkdir()
    assert load_recipe("pythia-14m").settings.source.model == "EleutherAI/pythia-14m"


def test_the_choices_that_a_message_names_are_pydantics() -> None:
    variants = {
        "a": {"format": "bnb", "quant_type": 0, "head": 0},
        "b": {"format": "gptq", "bits": 0, "group_size": "no row"},
        "c": {"format": "onnx", "weights": 0, "tensors": {"head": {"block_size": 48}}},
        "d": {"format": "none"},
    }
    data = {"schema": 2, "source": {"model": "a/b"}, "evaluation": {"text": {"builtin": "no text"}}}
    with pytest.raises(ValidationError) as refused:
        RecipeSettings.model_validate(data | {"variants": variants})
    errors = refused.value.errors()
    assert len(errors) == 9
    for error in errors:
        choices = formats_at if error["type"] == "union_tag_invalid" else values_at
        sentence = error["ctx"]["expected_tags" if choices is formats_at else "expected"]
        assert choices(RecipeSettings, error["loc"]) == re.findall(r"[\w-]+", sentence.replace(" or ", ", "))
