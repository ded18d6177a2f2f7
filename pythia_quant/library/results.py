"""Results as Python programs read them: a mapping of rows to measured values, and a data frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from markdown_it import MarkdownIt

from pythia_quant.bench.metrics import METRICS
from pythia_quant.core.errors import ArgumentError, UnknownNameError, nearest
from pythia_quant.records import results as records
from pythia_quant.report.files import short_labels
from pythia_quant.report.tables import COLUMNS, FIELDS, escape_markdown, markdown_table, row_records, tidy_records

if TYPE_CHECKING:
    import pandas


_FIRST = ("row", "metric", "value", "low", "high", "interval", "unit", "better", "protocol", "machine")


@dataclass(frozen=True, repr=False)
class Measurement:
    """One measured value.

    Attributes:
        metric: the metric's key, such as ``kl``.
        value: the value.
        low: the lower end of its interval; equal to `value` for what is counted.
        high: the upper end.
        interval: what the ends are: ``95 %`` of a mean, ``10 % to 90 %`` of samples, or empty for what is counted.
        unit: the unit of all three numbers; empty for a ratio.
        better: whether a ``lower`` or a ``higher`` value is better; empty if neither is.
        protocol: the protocol that measured it, with its version.
    """

    metric: str
    value: float
    low: float
    high: float
    interval: str
    unit: str
    better: Literal["lower", "higher", ""]
    protocol: str

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        ends = f" ({self.low:.4g} to {self.high:.4g}, {self.interval})" if self.interval else ""
        return f"{self.metric}: {self.value:.4g}{f' {self.unit}' if self.unit else ''}{ends}"


class RowValues(Mapping[str, Measurement]):
    """The measured values of one row, by the key of the metric, such as ``kl`` or ``decode``.

    Args:
        name: the row's name.
        values: the values.
    """

    def __init__(self, name: str, values: dict[str, Measurement]) -> None:
        self.name, self._values = name, values

    def __getitem__(self, metric: str) -> Measurement:
        if metric not in self._values:
            known = f"was not measured for {self.name}" if metric in METRICS else "is no metric"
            raise UnknownNameError(f"{metric!r} {known}", hint=nearest(str(metric), self._values))
        return self._values[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "\n".join([f"{self.name}:", *(f"  {value!r}" for value in self._values.values())])

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)


class Results(records.Results):
    """Everything that a benchmark measured: ``results["onnx-int8"]["kl"].value``.

    The fields hold the raw samples, as the result file does; ``results["NAME"]`` derives values and intervals of a row.
    """

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a result file that this version or an older one wrote; a folder stands for the results.json in it.

        Raises:
            BenchmarkError: the file is missing or damaged, or a newer version wrote it.
        """
        path = Path(path).expanduser()
        return with_values(records.load_results(path / records.RESULTS if path.is_dir() else path))

    def save(self, path: str | Path) -> None:
        """Write a result file; an earlier one stays beside it, under a name that has its time.

        Raises:
            ArtifactError: another process is writing the file.
            StorageError: the file cannot be written; the earlier one is unchanged.
        """
        records.save_results(self, Path(path).expanduser())

    @property
    def names(self) -> list[str]:
        """The names of the rows: those of the source, such as ``torch-fp16``, then the variants."""
        return [row.name for row in self.rows]

    def __getitem__(self, name: str) -> RowValues:
        """Return the measured values of a row.

        Raises:
            UnknownNameError: there is no such row.
        """
        if name not in self:
            raise UnknownNameError(f"there is no row {name!r}", hint=nearest(str(name), self.names))
        keys = Measurement.__dataclass_fields__
        measured = row_records(self.row(name), self, "")
        return RowValues(
            name, {record["metric"]: Measurement(**{key: record[key] for key in keys}) for record in measured}
        )

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def to_frame(self) -> pandas.DataFrame:
        """Return all measured values as a table with one line for each value of each row.

        The columns are those of ``pythia-quant report --format csv``, in another order: ``row``, ``metric``,
        ``value``, ``low``, ``high``, ``interval``, ``unit``, ``better``, ``protocol``, ``machine`` and others. Tables
        of several results can be put below each other: ``file``, ``model`` and ``revision`` tell lines apart.

        Raises:
            ArgumentError: pandas is not installed.
        """
        try:
            import pandas  # noqa: PLC0415 - of an extra, and slow to import
        except ImportError as error:
            hint = "pip install pandas"
            raise ArgumentError(f"a data frame needs pandas ({error})", where="to_frame", hint=hint) from error
        (label,) = short_labels([self], [""])
        columns = [*_FIRST, *(field for field in FIELDS if field not in _FIRST)]
        return pandas.DataFrame(tidy_records(self, label), columns=columns)

    def __repr__(self) -> str:
        return f"Results({self._summary()}: {', '.join(self.names)})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        table = markdown_table(self, COLUMNS, gates=bool(self.gates))
        html: str = MarkdownIt("js-default").render(f"{escape_markdown(self._summary())}\n\n{table}")
        return html

    def _ipython_key_completions_(self) -> list[str]:
        return self.names

    def _summary(self) -> str:
        (label,) = short_labels([self], [""])
        return f"{label}, {self.protocol.windows} windows of {self.protocol.context:,} tokens, {self.created:%Y-%m-%d}"


def with_values(results: records.Results) -> Results:
    """Return a record of results as the class that Python programs read."""
    return Results(**dict(results))


def load_results(path: str | Path) -> Results:
    """Read a result file; see :meth:`Results.load`."""
    return Results.load(path)
