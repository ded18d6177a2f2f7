"""The result file: raw samples with units, protocol and environment. Every statistic is derived from them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from pythia_quant.errors import BenchmarkError
from pythia_quant.manifest import Record, SourceRecord, TextRecord

RESULTS = "results.json"


class Protocol(Record):
    """The exact way drift was measured; see docs/protocols.md for each name and version."""

    name: Literal["windows"] = "windows"
    version: Literal[1] = 1
    context: int
    windows: int


class Drift(Record):
    """One set of logits against the reference: per-window means, in the order of the windows.

    Attributes:
        nll: negative log-likelihood, nats a token.
        kl: KL divergence from the reference, nats a token.
        top1: share of positions whose most likely token is the reference's.
        non_finite: positions with a logit that is not finite; when there are any, the lists are empty.
    """

    nll: list[float]
    kl: list[float]
    top1: list[float]
    non_finite: int = 0


class Speed(Record):
    """Raw samples of one fresh process with nothing else running, batch 1, warm-up not counted.

    Attributes:
        threads: given to the numeric library.
        load_seconds: from opening the files to a model that can run.
        prompt_tokens: length of the prefilled prompt.
        prefill_seconds: one sample a prefill.
        decode_prompt_tokens: length of the prompt before decoding.
        decode_seconds: one sample a token.
        start_rss_bytes: resident size of the process before the model was loaded, Python and libraries included.
        peak_rss_bytes: its largest resident size.
    """

    threads: int
    load_seconds: float
    prompt_tokens: int
    prefill_seconds: list[float]
    decode_prompt_tokens: int
    decode_seconds: list[float]
    start_rss_bytes: int
    peak_rss_bytes: int


class Row(Record):
    """One way to run the model.

    Attributes:
        name: the variant's, or ``torch-<dtype>`` for the source as transformers runs it.
        quantized: whether any weight has fewer bits than the source's.
        runtime: library, kernel and dtype.
        bits_per_weight: over all parameters.
        disk_bytes: of the whole folder for an artifact, of the weights for the source.
        manifest_sha256: of the artifact's manifest, which holds its files' hashes; None for the source.
        weights: drift of the weights, in fp32 arithmetic; None for the source, whose weights are the reference's.
        as_run: drift as run by `runtime`.
        speed: None when it was not measured.
    """

    name: str
    quantized: bool
    runtime: str
    bits_per_weight: float
    disk_bytes: int
    manifest_sha256: str | None = None
    weights: Drift | None = None
    as_run: Drift
    speed: Speed | None = None


class GateOutcome(Record):
    """One limit on one measured value."""

    variant: str
    gate: str
    limit: float
    value: float
    low: float
    high: float
    outcome: Literal["passed", "failed", "undecided"]
    windows_needed: int | None = None


class Results(Record):
    """Everything one benchmark run measured."""

    schema_version: Literal[1] = 1
    tool: str
    created: datetime
    source: SourceRecord
    text: TextRecord
    protocol: Protocol
    cpu: str
    cores: int
    versions: dict[str, str]
    reference_nll: list[float]
    baseline: str
    rows: list[Row]
    gates: list[GateOutcome] = Field(default_factory=list)

    def row(self, name: str) -> Row:
        """Return the row called `name`."""
        return next(row for row in self.rows if row.name == name)


def save_results(results: Results, path: Path) -> None:
    """Write a result file; an earlier one stays beside it, under a name with the time it was made."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if path.exists():
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        path.rename(path.with_name(f"{path.stem}-{made:%Y%m%dT%H%M%S}{path.suffix}"))
    scratch.rename(path)


def load_results(path: Path) -> Results:
    """Read a result file.

    Raises:
        BenchmarkError: it is not there, damaged, or written by a newer version.
    """
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BenchmarkError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise BenchmarkError(
            f"{key}: {first['msg']}", where=str(path), hint="a newer version may have written it"
        ) from error
