"""What users import from `pythia_quant`: a name or an argument that changes here changes a program of theirs."""

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import pythia_quant
from pythia_quant.core import machine
from pythia_quant.core.errors import PythiaQuantError

FUNCTIONS = {
    "benchmark": "(inputs: Inputs, artifacts: list[Artifact], path: Path, *, passages: Passages | None = None, "
    "options: Options | None = None, steps: Steps | None = None) -> Results",
    "convert": "(inputs: Inputs, variant: str, out: Path, *, overwrite: bool = False, progress: Progress = SILENT) "
    "-> Artifact",
    "load_inputs": "(recipe: Recipe, progress: Progress = SILENT, *, convert: bool = True, "
    "only: list[str] | None = None) -> Inputs",
    "load_recipe": "(name: str | Path) -> Recipe",
    "load_results": "(path: Path) -> Results",
    "make_plan": "(publication: Publication, *, private: bool = False, without_hub: bool = False) -> Plan",
    "open_artifact": "(folder: Path) -> Artifact",
    "prepare_publication": "(folder: Path, target: Target, *, results: Path | None = None, base: str | None = None, "
    "despite_gate: str = '', together: Sequence[Artifact] = (), without_hub: bool = False) -> Publication",
    "publish": "(plan: Plan, progress: Progress = SILENT) -> Published",
    "pull": "(artifact: str, progress: Progress = SILENT) -> Path",
}
RECORDS = {
    "Artifact": "folder manifest settings",
    "Inputs": "recipe source evaluation evaluation_text calibration calibration_record",
    "Manifest": "schema_version tool created variant settings recipe_name recipe_id recipe source calibration versions "
    "cpu notes check files",
    "Options": "threads memory device again",
    "Plan": "publication private create_repo create_branch head files deleted kept",
    "Publication": "artifact target files despite unknown",
    "Published": "url commit uploaded",
    "Recipe": "name path settings lines options",
    "Results": "schema_version tool created source text protocol latency lambada size_version machine reference_nll "
    "baseline rows gates notes",
    "Row": "name quantized runtime bits_per_weight disk_bytes manifest_sha256 weights as_run speeds lambada layers "
    "notes",
    "Target": "repo_id revision",
}
STEPS = {"step": "(self, what: str, done: int, total: int) -> None", "notice": "(self, text: str) -> None"}
ERRORS = {
    "ArgumentError", "ArtifactError", "BenchmarkError", "CorpusError", "HubError", "PythiaQuantError",
    "QuantizationError", "RecipeError", "SourceError", "StorageError",
}  # fmt: skip


def public(name: str) -> Any:
    return getattr(pythia_quant, name)


def test_nothing_else_is_public() -> None:
    assert set(pythia_quant.__all__) == FUNCTIONS.keys() | RECORDS.keys() | ERRORS | {"Progress"}
    assert set(pythia_quant.__all__) <= set(dir(pythia_quant))
    with pytest.raises(AttributeError, match="'nothing'"):
        public("nothing")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_it_did(name: str) -> None:
    signature = str(inspect.signature(public(name), eval_str=False)).replace("'", "").replace("= ,", "= '',")
    signature = re.sub(r"<\S+\.Progress object at 0x\w+>", "SILENT", signature)
    assert signature.replace("= )", "= '')") == FUNCTIONS[name]
    assert public(name).__doc__


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_has_the_fields_it_had(name: str) -> None:
    record = public(name)
    assert is_dataclass(record) or issubclass(record, BaseModel)
    names = [field.name for field in fields(record)] if is_dataclass(record) else list(record.model_fields)
    assert " ".join(names) == RECORDS[name]
    assert record.__doc__


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_an_error_says_what_where_and_what_to_do(name: str) -> None:
    error = public(name)("what is wrong", where="where", hint="what to do")
    assert isinstance(error, PythiaQuantError)
    assert (error.what, error.where, error.hint) == ("what is wrong", "where", "what to do")
    assert str(error) == "where: what is wrong\n  what to do"
    assert type(error).__doc__


def test_progress_is_told_of_steps_and_sentences() -> None:
    for name, signature in STEPS.items():
        assert str(inspect.signature(getattr(public("Progress"), name))).replace("'", "") == signature
    assert public("Progress").__doc__


def test_every_kind_of_error_is_exported() -> None:
    defined = {name for name, error in vars(pythia_quant.core.errors).items() if inspect.isclass(error)}
    assert {name for name in defined if name.endswith("Error")} == ERRORS


def test_type_checkers_see_the_names_that_a_program_does() -> None:
    tree = ast.parse(Path(pythia_quant.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "only `as` makes a name public to type checkers"
            seen[alias.name] = node.module
    assert seen == pythia_quant._MODULE_OF


def test_importing_the_package_imports_nothing_of_it() -> None:
    code = "import sys, pythia_quant; print([name for name in sys.modules if name.startswith('pythia_quant.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_place_says_the_same_version() -> None:
    assert machine.tool_version() == f"pythia-quant {pythia_quant.__version__}"
    command = [sys.executable, "-m", "pythia_quant", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"pythia-quant {pythia_quant.__version__}\n"
