"""What is written down of a search: what each tensor costs alone, and every choice that was measured."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from pythia_quant.bench.statistics import mean_of_windows
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.files import replace_file
from pythia_quant.core.foreign_files import read_object
from pythia_quant.core.text import short
from pythia_quant.records.manifest import Record, SourceRecord, TextRecord

R = TypeVar("R", bound=Record)


class Cell(Record):
    """What one option of a tensor costs, if all other tensors are the source's.

    Attributes:
        option: its name.
        bytes: what the tensor takes in the file.
        kl: the KL divergence of each search window, nats a token; empty if it was only predicted.
        predicted: by the Fisher information, nats a token; None if it was not predicted.
    """

    option: str
    bytes: int
    kl: list[float] = Field(default_factory=list)
    predicted: float | None = None

    @property
    def value(self) -> float:
        """The divergence to reckon with: the measured one, or the predicted one. It is never negative."""
        return max(fmean(self.kl) if self.kl else self.predicted or 0.0, 0.0)

    @property
    def margin(self) -> float | None:
        """Half the width of the 95 % interval of the measured divergence; None if it was not measured."""
        return mean_of_windows(self.kl).margin if self.kl else None


class TensorCells(Record):
    """All options of a tensor, the smallest first."""

    tensor: str
    cells: list[Cell]


class Sensitivity(Record):
    """What each tensor of a source costs in each option of a variant.

    Attributes:
        schema_version: of this layout.
        tool: the program that wrote it.
        key: a hash of all that the numbers depend on.
        source: the source.
        variant: the name of the variant.
        settings: its settings.
        text: the search text.
        windows: the windows of it.
        context: the tokens of a window.
        positions: the positions of a window that were compared.
        way: whether cells were measured, or predicted only.
        seconds: the processor's time that it took, of all calls together.
        rank_correlation: Spearman's, of predicted and measured cells; None if nothing was measured.
        tensors: all tensors that may be quantized.
    """

    schema_version: Literal[1] = 1
    tool: str
    key: str
    source: SourceRecord
    variant: str
    settings: dict[str, Any]
    text: TextRecord
    windows: int
    context: int
    positions: int
    way: Literal["measured", "predicted"]
    seconds: float
    rank_correlation: float | None
    tensors: list[TensorCells]

    def table(self) -> dict[str, dict[str, Cell]]:
        """Return the cells by tensor and option."""
        return {row.tensor: {cell.option: cell for cell in row.cells} for row in self.tensors}


def read_record(kind: type[R], path: Path) -> R:
    """Read a record.

    Raises:
        BenchmarkError: the file is missing or damaged.
    """
    hint = "remove the file; the same command makes it again"
    try:
        return kind.model_validate(read_object(path, BenchmarkError, hint))
    except ValidationError as error:
        key = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
        raise BenchmarkError(f"cannot be read: {short(key)}", where=str(path), hint=hint) from error


def write_record(record: Record, path: Path) -> None:
    """Write a record; the file is there whole, or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, record.model_dump_json(indent=1) + "\n")
