"""What each tensor costs alone: every option of it, measured or predicted, kept as soon as it is known."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

from pythia_quant.artifacts.inputs import Inputs as RecipeInputs
from pythia_quant.core import machine
from pythia_quant.core.errors import RecipeError
from pythia_quant.core.files import target_lock
from pythia_quant.core.progress import Progress
from pythia_quant.core.settings import VariantSettings
from pythia_quant.model.architecture import EMBEDDING, HEAD, LINEARS
from pythia_quant.model.forward import LayerWeights, read_layer
from pythia_quant.recipe.gguf_variant import GgufSettings
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.tune.alone import CalibrationInputs, Inputs, Rounded, Rounder, changed_layer, equalized_layer
from pythia_quant.tune.choices import bytes_of, is_tunable, options_of, tensor_keys
from pythia_quant.tune.effect import Effects
from pythia_quant.tune.fisher import Fisher, Traces
from pythia_quant.tune.records import Cell, Sensitivity, TensorCells, read_record, write_record
from pythia_quant.tune.texts import Part

NUMERICS = 2
"""The version of all that decides a number of a search: quantizers, forward pass, predictions. Raised when one changes
a value for the same input. Kept sensitivities and trials have it in their keys, with the versions of the libraries."""
SOLVING_WINDOWS = 32
"""The most calibration windows that tensors are solved for, spread over those of the recipe."""


def numerics() -> list[object]:
    """Return the versions of all code that decides a number."""
    return [NUMERICS, machine.tool_version(), machine.library_versions()]


@dataclass(frozen=True)
class Search:
    """The search for what the tensors of a variant cost.

    Attributes:
        inputs: the recipe with its source and texts.
        variant: the name of the variant.
        text: the search windows.
        folder: the folder for what is found, and for the states of the search.
        measures: whether cells are measured, or only predicted.
    """

    inputs: RecipeInputs
    variant: str
    text: Part
    folder: Path
    measures: bool = True

    @property
    def settings(self) -> VariantSettings:
        """The variant's settings."""
        return self.inputs.recipe.variants([self.variant])[self.variant]

    @property
    def path(self) -> Path:
        """The file of the outcome."""
        return self.folder / f"sensitivity-{self.variant}.json"

    @property
    def key(self) -> str:
        """A hash of all that the numbers depend on."""
        source = self.inputs.source
        parts = {
            "numerics": numerics(),
            "source": [source.sha256, source.architecture.config()],
            "settings": self.settings.model_dump(mode="json"),
            "text": self.text.digest,
            "calibration": hashlib.sha256(self.solving.numpy().tobytes()).hexdigest(),
            "measures": self.measures,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def solving(self) -> Tensor:
        """The calibration windows that tensors are solved for, int64 [windows, tokens]."""
        rows = self.inputs.calibration
        return torch.from_numpy(rows[:: max(1, -(-len(rows) // SOLVING_WINDOWS))])


def find_sensitivities(search: Search, progress: Progress) -> Sensitivity:
    """Return what each tensor costs, and write it; cells that an earlier call has found are not made again.

    Raises:
        RecipeError: the format of the variant has no option for each tensor.
        PythiaQuantError: a tensor cannot be quantized, or the folder cannot be written.
    """
    settings = search.settings
    if not is_tunable(settings):
        raise search.inputs.recipe.error(
            ("variants", search.variant),
            "its tensors have no options of their own: tune takes variants of gguf and onnx in blocks, without codes",
        )
    if search.path.exists() and (there := read_record(Sensitivity, search.path)).key == search.key:
        return there
    start = time.process_time()
    with _work(search) as work:
        before = _seconds(work)
        _find(search, work, progress, start - before)
        found = [read_record(TensorCells, work / "cells" / f"{key}.json") for key in _keys(search)]
        sensitivity = Sensitivity(
            tool=machine.tool_version(), key=search.key, source=search.inputs.source_record, variant=search.variant,
            settings=settings.model_dump(mode="json"), text=search.text.record, windows=len(search.text.windows),
            context=search.text.windows.shape[1],
            positions=len(Effects(search.inputs.source.weights, _ids(search), work).positions),
            way="measured" if search.measures else "predicted", seconds=before + time.process_time() - start,
            rank_correlation=rank_correlation(found), tensors=found,
        )  # fmt: skip
        write_record(sensitivity, search.path)
        shutil.rmtree(work / "states", ignore_errors=True)
        shutil.rmtree(work / "cells")
    return sensitivity


def rank_correlation(tensors: list[TensorCells]) -> float | None:
    """Return Spearman's correlation of predicted and measured cells; the head's are left out, they are measured both.

    None if there are fewer than three.
    """
    cells = [cell for row in tensors if row.tensor != "head" for cell in row.cells if cell.kl]
    pairs = [(cell.predicted, cell.value) for cell in cells if cell.predicted is not None]
    if len(pairs) < 3:
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


@contextmanager
def _work(search: Search) -> Iterator[Path]:
    folder = search.folder / f"search-{search.key}"
    search.folder.mkdir(parents=True, exist_ok=True)
    with target_lock(folder):
        folder.mkdir(exist_ok=True)
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _seconds(work: Path) -> float:
    """Return the processor's time of earlier calls, in seconds."""
    path = work / "seconds"
    return float(path.read_text()) if path.exists() else 0.0


def _ids(search: Search) -> Tensor:
    return torch.from_numpy(search.text.windows)


def _keys(search: Search) -> list[str]:
    return list(tensor_keys(search.inputs.source.architecture))


def rounder_of(settings: VariantSettings, *, quick: bool) -> Rounder:
    """Return what rounds single tensors by a variant's settings; see :class:`~pythia_quant.tune.alone.Rounder`.

    Raises:
        RecipeError: variants of its format have no option for each tensor.
    """
    if not isinstance(settings, GgufSettings | OnnxSettings):
        raise RecipeError(f"{settings.format} has no setting for each tensor")
    return Rounder(settings, quick)


@torch.no_grad()
def _find(search: Search, work: Path, progress: Progress, started: float) -> None:
    machine.bound_torch()
    cells = work / "cells"
    cells.mkdir(exist_ok=True)
    missing = [key for key in _keys(search) if not (cells / f"{key}.json").exists()]
    if not missing:
        return
    finder = _Finder(search, work, progress, missing, started)
    finder.effects.prepare(progress)
    finder.predict()
    finder.measure()


class _Finder:
    """Finds the cells of tensors, and writes those of each as soon as all of them are known."""

    def __init__(self, search: Search, work: Path, progress: Progress, missing: list[str], started: float) -> None:
        self._search, self._work, self._progress, self._missing = search, work, progress, missing
        self._source, self._started = search.inputs.source.weights, started
        self._shape = self._source.architecture
        self._ids = _ids(search)
        self.effects = Effects(self._source, self._ids, work / "states")
        self._quick = rounder_of(search.settings, quick=True)
        self._full = rounder_of(search.settings, quick=False)
        # A few bits of embeddings and head are solved in little time, and rounded to nearest they cost much more.
        self._tables = self._full if isinstance(search.settings, OnnxSettings) else self._quick
        self._options = {key: options_of(search.settings, self._shape, key) for key in missing}
        self._predicted: dict[str, dict[str, float]] = {}

    def predict(self) -> None:
        """Predict all missing cells but the head's, rounded to nearest."""
        fisher = Fisher(self._source, self._ids, self.effects)
        for index, traces in fisher.layers():
            self._progress.step("predicted layer", self._shape.layers - 1 - index, self._shape.layers)
            layer = equalized_layer(self._source, index)
            for name, trace in traces.items():
                self._predict_linear(f"layers.{index}.{name}", layer[f"{name}.weight"], trace)
        if "embeddings" in self._missing:
            table = self._source.read(EMBEDDING).float()
            first = read_layer(self._source, 0)
            self._predicted["embeddings"] = {
                option: fisher.embedding(self._tables.embeddings(table, option, first).weight - table)
                for option in self._options["embeddings"]
            }

    def _predict_linear(self, key: str, weight: Tensor, trace: Traces) -> None:
        if key not in self._missing:
            return
        changes = {option: self._quick.linear(weight, option, None).weight - weight for option in self._options[key]}
        self._predicted[key] = {option: trace.divergence(change) for option, change in changes.items()}

    def measure(self) -> None:
        """Measure all missing cells, or write what was predicted of them, one tensor after another."""
        done = len(_keys(self._search)) - len(self._missing)
        for number, key, found in self._measured():
            self._progress.step(
                f"measured {key}" if self._search.measures else key, done + number, len(_keys(self._search))
            )
            predicted = self._predicted.get(key, {})
            cells = [
                Cell(
                    option=option,
                    bytes=bytes_of(self._search.settings, self._shape, key, option),
                    kl=found.get(option, []),
                    predicted=predicted.get(option),
                )
                for option in self._options[key]
            ]
            write_record(TensorCells(tensor=key, cells=cells), self._work / "cells" / f"{key}.json")
            (self._work / "seconds").write_text(str(time.process_time() - self._started))

    def _measured(self) -> Iterator[tuple[int, str, dict[str, list[float]]]]:
        """Yield how many tensors are done, the next one, and the divergences of its options."""
        done, rounder = 0, self._full if self._search.measures else self._tables
        if "embeddings" in self._missing:
            table, first = self._source.read(EMBEDDING).float(), read_layer(self._source, 0)
            options = self._options["embeddings"] if self._search.measures else []
            tables = [rounder.embeddings(table, option, first).weight for option in options]
            yield done, "embeddings", dict(zip(options, self.effects.of_embeddings(tables), strict=True))
            del tables
            done += 1
        head_inputs = None
        for index, layer, inputs in self._layers(rounder):
            for name in LINEARS:
                key = f"layers.{index}.{name}"
                if key in self._missing:
                    yield done, key, self._linear(index, name, layer, inputs.get(name)) if self._search.measures else {}
                    done += 1
        if "head" in self._missing:
            head_inputs = self._calibration.head() if rounder.solves_head and self._calibration else None
            head = self._source.read(HEAD).float()
            options = self._options["head"]
            kls = [self.effects.of_heads([rounder.head(head, option, head_inputs).weight])[0] for option in options]
            yield done, "head", dict(zip(options, kls, strict=True))

    def _linear(self, index: int, name: str, layer: LayerWeights, inputs: Inputs | None) -> dict[str, list[float]]:
        options = self._options[f"layers.{index}.{name}"]
        weight = layer[f"{name}.weight"]
        rounded: Mapping[str, Rounded] = {option: self._full.linear(weight, option, inputs) for option in options}
        changed = [changed_layer(layer, name, each) for each in rounded.values()]
        return dict(zip(options, self.effects.of_layer(index, changed), strict=True))

    def _layers(self, rounder: Rounder) -> Iterator[tuple[int, LayerWeights, dict[str, Inputs]]]:
        """Yield each layer, equalized, with what its linear layers read of the calibration text."""
        self._calibration: CalibrationInputs | None = None
        solves = rounder.solves or (rounder.solves_head and "head" in self._missing)
        if solves and self._search.solving.numel():
            folder = self._work / "states" / "calibration"
            shutil.rmtree(folder, ignore_errors=True)
            self._calibration = CalibrationInputs(self._source, self._search.solving, folder)
        for index in range(self._shape.layers):
            layer, inputs = equalized_layer(self._source, index), dict[str, Inputs]()
            if self._calibration:
                needed = rounder.solves and any(key.startswith(f"layers.{index}.") for key in self._missing)
                inputs = self._calibration.layer(index, layer, needed=needed)
            yield index, layer, inputs
