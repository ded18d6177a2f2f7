"""What of an artifact's records is published."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_inputs import manifest, results

from pythia_quant.core.errors import RecipeError
from pythia_quant.core.text import printable
from pythia_quant.publishing.anonymize import local_paths, public_manifest, public_recipe, public_results, serialized
from pythia_quant.publishing.card import render_card
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records.manifest import FileRecord, Manifest, SourceRecord
from pythia_quant.records.results import Foreign


def with_local_files(of: Manifest) -> Manifest:
    recipe: dict[str, Any] = json.loads(json.dumps(of.recipe))
    recipe["evaluation"]["text"] = {"file": "/home/someone/held out.txt"}
    recipe["calibration"]["text"] = {"file": "C:\\Users\\someone\\train.txt"}
    recipe["source"] = {"model": "/home/someone/models/mine", "revision": "main"}
    source = SourceRecord(model="/home/someone/models/mine", revision="local", commit=None, sha256={}, parameters=1)
    return of.model_copy(update={"recipe": recipe, "source": source})


def test_a_manifest_without_local_paths_is_published_as_it_is(made: Path) -> None:
    path = made / "onnx-int8" / "pythia_quant.json"
    of = Manifest.model_validate_json(path.read_bytes())
    assert serialized(of) == path.read_bytes()
    assert public_manifest(manifest()) == manifest()


def test_local_paths_are_reduced_to_their_last_part() -> None:
    of = with_local_files(manifest())
    assert len(local_paths(of)) == 3
    public = public_manifest(of)
    assert "someone" not in public.model_dump_json()
    assert public.source.model == public.recipe["source"]["model"] == "mine"
    assert public.recipe["evaluation"]["text"]["file"] == "held out.txt"
    assert public.recipe["calibration"]["text"]["file"] == "train.txt"
    assert local_paths(public) == set()


def test_a_recipe_without_calibration_is_published_too() -> None:
    of = manifest("bnb-nf4")
    recipe = {key: value for key, value in of.recipe.items() if key not in ("calibration", "basis")}
    variants = {name: value for name, value in recipe["variants"].items() if value["format"] == "bnb"}
    of = of.model_copy(update={"recipe": recipe | {"variants": variants, "gates": {}}})
    assert local_paths(of) == set()
    assert public_manifest(of) == of
    assert "calibration" not in yaml.safe_load(public_recipe(of))
    card = render_card(of, results(of, gate=""), repo_id="me/quantized", original=None)
    assert "Calibrated on" not in card  # and no sentence that says only that


def test_a_path_that_is_part_of_other_texts_leaves_those_as_they_are() -> None:
    """As in a container, where the source may be mounted at /model."""
    of = with_local_files(manifest())
    source = of.source.model_copy(update={"model": "/model"})
    recipe = of.recipe | {"source": {"model": "/model", "revision": "main"}}
    file = FileRecord(bytes=1, sha256="0" * 64)
    files = {"onnx/model_quantized.onnx": file, "model": file}
    notes = {"said": "in /model and onnx/model_quantized.onnx"}
    public = public_manifest(of.model_copy(update={"source": source, "recipe": recipe, "files": files, "notes": notes}))
    assert (public.source.model, public.recipe["source"]["model"]) == ("model", "model")
    assert (public.files, public.notes) == (files, notes)


def test_results_are_those_of_the_variant_and_belong_to_the_public_manifest() -> None:
    of = with_local_files(manifest())
    run = results(of)
    row = run.row(of.variant)
    public = public_manifest(of)
    of_others = row.model_copy(update={"name": "another"})
    foreign = Foreign(
        kind="gguf", place="/home/someone/theirs.gguf", commit=None, stored="GGUF", tokenizer="own", files={}
    )
    theirs = row.model_copy(update={"name": "their-q4", "foreign": foreign, "manifest_sha256": None})
    half = theirs.model_copy(update={"name": "their-half", "quantized": False})  # as quantized as the source's own rows
    kept = public_results(run.model_copy(update={"rows": [*run.rows, of_others, theirs, half]}), row, of, public)
    assert [one.name for one in kept.rows] == [one.name for one in run.rows]
    assert kept.row(of.variant).manifest_sha256 == hashlib.sha256(serialized(public)).hexdigest()
    assert kept.source == public.source
    assert "someone" not in kept.model_dump_json()
    card = render_card(public, kept, repo_id="me/quantized", original=None)
    assert "their-q4" not in card
    assert "their-half" not in card


def test_the_recipe_of_one_variant_loads_and_has_what_its_codes_are_from(tmp_path: Path) -> None:
    demo = load_recipe("demo")
    of = manifest().model_copy(update={"recipe": demo.canonical(), "variant": "onnx-int4"})
    path = tmp_path / "recipe.yaml"
    path.write_text(public_recipe(of))
    again = load_recipe(path)
    assert list(again.settings.variants) == ["gptq-int4", "onnx-int4"]
    assert list(again.settings.gates) == ["onnx-int4"]
    assert again.settings.variants["onnx-int4"] == demo.settings.variants["onnx-int4"]
    assert again.settings.source.revision == of.source.commit
    assert again.settings.evaluation == demo.settings.evaluation


def test_a_recipe_of_another_version_is_refused() -> None:
    of = manifest()
    with pytest.raises(RecipeError, match="convert again"):
        public_recipe(of.model_copy(update={"recipe": of.recipe | {"unheard": "of"}}))


def test_what_hides_in_a_recipe_is_published_as_escapes() -> None:
    name = "held\u202e out\u200f ä.txt"
    of = manifest()
    recipe = json.loads(json.dumps(of.recipe))
    recipe["evaluation"]["text"] = {"file": name}
    text = public_recipe(of.model_copy(update={"recipe": recipe}))
    assert printable(text) == text
    assert yaml.safe_load(text)["evaluation"]["text"] == {"file": name}
