"""Quantize EleutherAI's Pythia models and measure what it cost.

::

    import pythia_quant as pq

    artifact = pq.quantize("demo", method="gptq-int4", out="artifacts")
    print(artifact.generate("import os"))
    results = pq.run("demo", out="artifacts")
    print(results["gptq-int4"]["kl"].value, results.to_frame())

docs/python.md is the guide. Every error is a :class:`PythiaQuantError`: it says what is wrong, where, and what to do
next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers: `as` marks a name that users may import from here
    from pythia_quant.artifacts.artifact import Artifact as Artifact
    from pythia_quant.artifacts.artifact import open_artifact as open_artifact
    from pythia_quant.artifacts.convert import convert as convert
    from pythia_quant.artifacts.inputs import Inputs as Inputs
    from pythia_quant.artifacts.inputs import load_inputs as load_inputs
    from pythia_quant.artifacts.pull import pull as pull
    from pythia_quant.bench.rows import Options as Options
    from pythia_quant.core.errors import ArgumentError as ArgumentError
    from pythia_quant.core.errors import ArtifactError as ArtifactError
    from pythia_quant.core.errors import BenchmarkError as BenchmarkError
    from pythia_quant.core.errors import CorpusError as CorpusError
    from pythia_quant.core.errors import HubError as HubError
    from pythia_quant.core.errors import PythiaQuantError as PythiaQuantError
    from pythia_quant.core.errors import QuantizationError as QuantizationError
    from pythia_quant.core.errors import RecipeError as RecipeError
    from pythia_quant.core.errors import SourceError as SourceError
    from pythia_quant.core.errors import StorageError as StorageError
    from pythia_quant.core.errors import StudyError as StudyError
    from pythia_quant.core.errors import UnknownNameError as UnknownNameError
    from pythia_quant.core.progress import Progress as Progress
    from pythia_quant.library.quantize import quantize as quantize
    from pythia_quant.library.results import Measurement as Measurement
    from pythia_quant.library.results import Results as Results
    from pythia_quant.library.results import RowValues as RowValues
    from pythia_quant.library.results import load_results as load_results
    from pythia_quant.library.run import benchmark as benchmark
    from pythia_quant.library.run import load as load
    from pythia_quant.library.run import run as run
    from pythia_quant.publishing.plan import Plan as Plan
    from pythia_quant.publishing.plan import make_plan as make_plan
    from pythia_quant.publishing.publication import Publication as Publication
    from pythia_quant.publishing.publication import Target as Target
    from pythia_quant.publishing.publication import prepare_publication as prepare_publication
    from pythia_quant.publishing.upload import Published as Published
    from pythia_quant.publishing.upload import publish as publish
    from pythia_quant.recipe.recipe import Recipe as Recipe
    from pythia_quant.recipe.recipe import RecipeSettings as RecipeSettings
    from pythia_quant.recipe.recipe import load_recipe as load_recipe
    from pythia_quant.records.manifest import CalibrationRecord as CalibrationRecord
    from pythia_quant.records.manifest import CheckRecord as CheckRecord
    from pythia_quant.records.manifest import FileRecord as FileRecord
    from pythia_quant.records.manifest import Manifest as Manifest
    from pythia_quant.records.manifest import SourceRecord as SourceRecord
    from pythia_quant.records.manifest import TextRecord as TextRecord
    from pythia_quant.records.protocols import LambadaProtocol as LambadaProtocol
    from pythia_quant.records.protocols import LatencyProtocol as LatencyProtocol
    from pythia_quant.records.protocols import Protocol as Protocol
    from pythia_quant.records.results import ConfidenceBin as ConfidenceBin
    from pythia_quant.records.results import Drift as Drift
    from pythia_quant.records.results import GateOutcome as GateOutcome
    from pythia_quant.records.results import Lambada as Lambada
    from pythia_quant.records.results import LayerError as LayerError
    from pythia_quant.records.results import Machine as Machine
    from pythia_quant.records.results import Quantile as Quantile
    from pythia_quant.records.results import Row as Row
    from pythia_quant.records.results import Samples as Samples
    from pythia_quant.records.results import Speed as Speed
    from pythia_quant.records.results import SpeedProcess as SpeedProcess
    from pythia_quant.texts.lambada import Passages as Passages
    from pythia_quant.texts.lambada import load_passages as load_passages

__version__ = "0.1.0"
"""The one place of the version; pyproject.toml reads it here."""

_MODULES = {
    "pythia_quant.artifacts.artifact": ("Artifact", "open_artifact"),
    "pythia_quant.artifacts.convert": ("convert",),
    "pythia_quant.artifacts.inputs": ("Inputs", "load_inputs"),
    "pythia_quant.artifacts.pull": ("pull",),
    "pythia_quant.bench.rows": ("Options",),
    "pythia_quant.core.errors": (
        "ArgumentError", "ArtifactError", "BenchmarkError", "CorpusError", "HubError", "PythiaQuantError",
        "QuantizationError", "RecipeError", "SourceError", "StorageError", "StudyError",
        "UnknownNameError",
    ),
    "pythia_quant.core.progress": ("Progress",),
    "pythia_quant.library.quantize": ("quantize",),
    "pythia_quant.library.results": ("Measurement", "Results", "RowValues", "load_results"),
    "pythia_quant.library.run": ("benchmark", "load", "run"),
    "pythia_quant.publishing.plan": ("Plan", "make_plan"),
    "pythia_quant.publishing.publication": ("Publication", "Target", "prepare_publication"),
    "pythia_quant.publishing.upload": ("Published", "publish"),
    "pythia_quant.recipe.recipe": ("Recipe", "RecipeSettings", "load_recipe"),
    "pythia_quant.records.manifest": (
        "CalibrationRecord", "CheckRecord", "FileRecord", "Manifest", "SourceRecord", "TextRecord",
    ),
    "pythia_quant.records.protocols": ("LambadaProtocol", "LatencyProtocol", "Protocol"),
    "pythia_quant.records.results": (
        "ConfidenceBin", "Drift", "GateOutcome", "Lambada", "LayerError", "Machine", "Quantile", "Row", "Samples",
        "Speed", "SpeedProcess",
    ),
    "pythia_quant.texts.lambada": ("Passages", "load_passages"),
}  # fmt: skip
"""The same names for the running program, by the module that defines them; tests/test_public_names.py compares."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [*_MODULE_OF]  # noqa: PLE0604 - the names stand in one table


if not TYPE_CHECKING:  # a type checker would take any name at all for one of ours

    def __getattr__(name: str) -> Any:
        # Imported on first use: `import pythia_quant` and the command line's --help need not wait for torch.
        if name in _MODULE_OF:
            from importlib import import_module  # noqa: PLC0415

            return getattr(import_module(_MODULE_OF[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
