"""What measuring says of its source."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from pythia_quant.artifacts.inputs import load_inputs
from pythia_quant.cli.jobs import at_revision
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records.manifest import SourceRecord


def test_a_source_opened_by_its_commit_keeps_its_name_and_what_is_wrong_with_it(recipe_file: Path) -> None:
    inputs = load_inputs(load_recipe(recipe_file), convert=False)
    record = SourceRecord(model="EleutherAI/pythia-2.8b", revision="step3000", commit="0" * 40, sha256={}, parameters=1)
    said = StringIO()
    assert at_revision(inputs, record, Console(file=said, width=20)).source.revision == "step3000"
    fault = "is known to serve the weights of main (EleutherAI/pythia issue 205)"
    assert said.getvalue() == f"EleutherAI/pythia-2.8b@step3000 {fault}\n"
    sound = record.model_copy(update={"revision": "step143000"})
    assert at_revision(inputs, sound, Console(file=said)).source.revision == "step143000"
    assert said.getvalue().count("\n") == 1
