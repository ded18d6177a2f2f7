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
    "benchmark": "(inputs: Inputs, artifacts: Sequence[Artifact], path: str | Path, *, "
    "passages: Passages | None = None, options: Options | None = None, progress: Listener = False) -> Results",
    "convert": "(inputs: Inputs, variant: str, out: str | Path, *, overwrite: bool = False, "
    "progress: Progress = SILENT) -> Artifact",
    "load": "(artifact: str | Path, *, progress: Listener = True) -> Artifact",
    "load_inputs": "(recipe: Recipe, progress: Progress = SILENT, *, convert: bool = True, "
    "only: list[str] | None = None, place: Place | None = None) -> Inputs",
    "load_passages": "(settings: LambadaSettings, progress: Progress = SILENT) -> Passages",
    "load_recipe": "(name: str | Path) -> Recipe",
    "load_results": "(path: str | Path) -> Results",
    "make_plan": "(publication: S, *, private: bool = False, without_hub: bool = False) -> Plan[S]",
    "open_artifact": "(folder: str | Path) -> Artifact",
    "prepare_publication": "(artifact: str | Path | Artifact, target: str | Target, *, "
    "results: str | Path | None = None, base: str | None = None, despite_gate: str = '', "
    "together: Sequence[Artifact] = (), without_hub: bool = False) -> Publication",
    "publish": "(plan: Plan[Shipment], progress: Progress = SILENT) -> Published",
    "pull": "(artifact: str, progress: Progress = SILENT) -> Path",
    "quantize": "(model: str | Path, method: str = 'gptq-int4', out: str | Path = 'artifacts', *, "
    "bits: int | None = None, group_size: int | None = None, revision: str | None = None, "
    "text: str | Path | None = None, calibration: str | Path | None = None, overwrite: bool = False, "
    "progress: Listener = True) -> Artifact",
    "run": "(recipe: str | Path | Recipe, out: str | Path = 'artifacts', *, only: str | Sequence[str] | None = None, "
    "model: str | Path | None = None, revision: str | None = None, text: str | Path | None = None, "
    "calibration: str | Path | None = None, lambada: str | Path | bool | None = None, "
    "settings: Mapping[str, Any] | None = None, overwrite: bool = False, quick: bool = False, "
    "threads: int | Sequence[int] | None = None, memory: int | None = None, "
    "device: Literal['cpu', 'cuda'] = 'cpu', progress: Listener = True) -> Results",
}
RECORDS = {
    "Artifact": "folder manifest settings",
    "CalibrationRecord": "text windows context seed",
    "CheckRecord": "method max_weight_error runtime run_error kl_as_run generated",
    "ConfidenceBin": "low high tokens kl kl_error top1",
    "Drift": "nll kl top1 top5 non_finite kl_quantiles kl_histogram by_confidence",
    "FileRecord": "bytes sha256",
    "GateOutcome": "variant gate limit value low high outcome windows_needed",
    "Inputs": "recipe source evaluation evaluation_text calibration calibration_record",
    "Lambada": "log_likelihood greedy",
    "LambadaProtocol": "name version file sha256 examples",
    "LatencyProtocol": "name version prompts contexts decoded repetitions warm_up passes rounds",
    "LayerError": "alone after",
    "Machine": "cpu instruction_sets cores memory_bytes system accelerator versions",
    "Manifest": "schema_version tool created variant settings recipe_name recipe_id recipe source calibration versions "
    "cpu notes check files",
    "Measurement": "metric value low high interval unit better protocol",
    "Options": "threads memory device again quick",
    "Passages": "name path sha256 examples",
    "Plan": "publication private create_repo create_branch head files deleted kept",
    "Protocol": "name version context windows text_windows",
    "Publication": "artifact target files despite unknown",
    "Published": "url commit uploaded",
    "Quantile": "share value low high",
    "Recipe": "name path settings lines options",
    "RecipeSettings": "schema_version source calibration evaluation tasks latency variants gates basis",
    "Results": "schema_version tool created source text protocol latency lambada size_version machine quick "
    "reference_nll baseline rows gates notes",
    "Row": "name quantized runtime bits_per_weight disk_bytes manifest_sha256 foreign weights as_run speeds lambada "
    "layers notes",
    "Samples": "tokens seconds",
    "SourceRecord": "model revision commit sha256 parameters",
    "Speed": "device threads weight_bytes processes disturbed",
    "SpeedProcess": "load_seconds first_token_seconds prefill decode start_rss_bytes peak_rss_bytes peak_device_bytes "
    "read_bytes_per_second others",
    "Target": "repo_id revision",
    "TextRecord": "name sha256 tokens bytes",
}
STEPS = {"step": "(self, what: str, done: int, total: int) -> None", "notice": "(self, text: str) -> None"}
ERRORS = {
    "ArgumentError", "ArtifactError", "BenchmarkError", "CorpusError", "HubError", "PythiaQuantError",
    "QuantizationError", "RecipeError", "SourceError", "StorageError", "StudyError",
        "UnknownNameError",
}  # fmt: skip


QUOTES = str.maketrans("", "", "'\"")


def public(name: str) -> Any:
    return getattr(pythia_quant, name)


def test_nothing_else_is_public() -> None:
    assert set(pythia_quant.__all__) == FUNCTIONS.keys() | RECORDS.keys() | ERRORS | {"Progress", "RowValues"}
    assert [name for name in dir(pythia_quant) if not name.startswith("__")] == sorted(pythia_quant.__all__)
    with pytest.raises(AttributeError, match="'nothing'"):
        public("nothing")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_it_did(name: str) -> None:
    signature = str(inspect.signature(public(name), eval_str=False))
    signature = re.sub(r"<\S+\.Progress object at 0x\w+>", "SILENT", signature)
    assert signature.translate(QUOTES) == FUNCTIONS[name].translate(QUOTES)
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
