"""The result file: raw samples with their units, protocol and environment, from which every statistic is derived."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.files import replace_file, target_lock
from pythia_quant.core.foreign_files import read_object
from pythia_quant.core.text import short
from pythia_quant.records.manifest import Record, SourceRecord, TextRecord
from pythia_quant.records.results_check import CURRENT, first_fault, upgrade

RESULTS = "results.json"
_EDITED = "it was edited, or a newer version wrote it"
CONFIDENCES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Edges of the bins of the reference's confidence."""


class Protocol(Record):
    """The exact way drift was measured; see docs/protocols.md for each name and version.

    Attributes:
        context: the tokens of a window.
        windows: the number of windows measured: all, or some spread evenly over the text; in version 1, the first.
        text_windows: the number of windows in the whole text; None in version 1.
    """

    name: Literal["windows"] = "windows"
    version: Literal[1, 2] = 2
    context: int
    windows: int
    text_windows: int | None = None


class LatencyProtocol(Record):
    """The exact way speed was measured.

    Attributes:
        prompts: tokens of the prompts that are prefilled.
        contexts: tokens in the context when decoding begins.
        decoded: tokens decoded after each context, in a pass.
        repetitions: the most prefills of each prompt in a pass.
        warm_up: the repetitions, and the decoded tokens, that do not count because the model warms up.
        passes: passes over all lengths in a process; long measurements are made in the first pass only.
        rounds: fresh processes for each row; a round measures every row once.
    """

    name: Literal["latency"] = "latency"
    version: Literal[1, 2] = 2
    prompts: list[int]
    contexts: list[int]
    decoded: int
    repetitions: int
    warm_up: int
    passes: int = 1
    rounds: int

    @property
    def prompt(self) -> int:
        """The prompt whose prefill is shown where only one is: the one nearest to 512 tokens."""
        return min(self.prompts, key=lambda tokens: abs(tokens - 512))

    @property
    def context(self) -> int:
        """The context whose decoding is shown where only one is: the one nearest to 128 tokens."""
        return min(self.contexts, key=lambda tokens: abs(tokens - 128))


class LambadaProtocol(Record):
    """LAMBADA in OpenAI's form, as lm-evaluation-harness defines the task ``lambada_openai``, version 1."""

    name: Literal["lambada-openai"] = "lambada-openai"
    version: Literal[1] = 1
    file: str
    sha256: str
    examples: int


class Quantile(Record):
    """A quantile over all tokens, with the 95 % interval that the windows' scatter gives it."""

    share: float
    value: float
    low: float
    high: float


class ConfidenceBin(Record):
    """The tokens at which the reference gave its most likely token a probability from `low` up to `high`.

    Attributes:
        tokens: the number of these tokens.
        kl: their mean KL divergence, nats; `kl_error` is its standard error, from windows.
        top1: share of them whose most likely token is the reference's.
    """

    low: float
    high: float
    tokens: int
    kl: float
    kl_error: float
    top1: float


class Drift(Record):
    """How one set of logits differs from the reference: means over each window, in the order of the windows.

    Attributes:
        nll: negative log-likelihood, nats a token.
        kl: KL divergence from the reference, nats a token.
        top1: share of positions whose most likely token is the reference's.
        top5: mean share of the reference's five most likely tokens than which fewer than five are likelier.
        non_finite: positions with a logit that is not finite; when there are any, the lists are empty.
        kl_quantiles: of the tokens' KL divergence. Like `top5` and what follows, empty in files of schema version 1.
        kl_histogram: tokens by the decimal logarithm of their KL divergence, in steps of a tenth from -12 to 2; what
            lies outside is counted in the first or last.
        by_confidence: KL divergence by how sure the reference was.
    """

    nll: list[float]
    kl: list[float]
    top1: list[float]
    top5: list[float] = Field(default_factory=list)
    non_finite: int = 0
    kl_quantiles: list[Quantile] = Field(default_factory=list)
    kl_histogram: list[int] = Field(default_factory=list)
    by_confidence: list[ConfidenceBin] = Field(default_factory=list)


class LayerError(Record):
    """What one layer's weights do to the hidden states of the first windows, root-mean-square, relative.

    Attributes:
        alone: error of what the layer adds to the reference's hidden states, relative to what it should add.
        after: error of the hidden states after the layer, those of all layers before it included.
    """

    alone: float
    after: float


class Samples(Record):
    """Seconds of each prefill of a prompt of `tokens`, or of each decoded token after a context of `tokens`."""

    tokens: int
    seconds: list[float]


class SpeedProcess(Record):
    """Raw samples of one fresh process with nothing else running, batch 1, warm-up not counted.

    Attributes:
        load_seconds: from opening the files to a model that can run.
        first_token_seconds: the process's first prefill, of the shortest prompt, and finding the most likely token.
        prefill: by prompt length.
        decode: by tokens already there.
        start_rss_bytes: resident size of the process before the model was loaded, Python and libraries included.
        peak_rss_bytes: its largest resident size.
        peak_device_bytes: the most an accelerator's memory held; None on the CPU.
        read_bytes_per_second: how fast a buffer of the weights' size was read, just after.
        others: share of all processors' time that other programs, and the host, took meanwhile; 0 to 1.
    """

    load_seconds: float
    first_token_seconds: float | None
    prefill: list[Samples]
    decode: list[Samples]
    start_rss_bytes: int
    peak_rss_bytes: int
    peak_device_bytes: int | None = None
    read_bytes_per_second: float | None = None
    others: float | None = None


class Speed(Record):
    """One way to run a row: where, and with how many threads.

    Attributes:
        device: ``cpu``, or the accelerator's name.
        threads: given to the numeric library.
        weight_bytes: what is read for each decoded token: all weights but the embeddings; None when not known.
        processes: one a round.
        disturbed: why the samples are not to be trusted; empty when nothing was noticed.
    """

    device: str = "cpu"
    threads: int
    weight_bytes: int | None
    processes: list[SpeedProcess]
    disturbed: str = ""

    def prefill_seconds(self, tokens: int) -> list[float]:
        """Return the samples of all processes for a prompt of `tokens`."""
        return [
            s for process in self.processes for part in process.prefill if part.tokens == tokens for s in part.seconds
        ]

    def decode_seconds(self, tokens: int) -> list[float]:
        """Return the samples of all processes, seconds a token, after `tokens`."""
        return [
            s for process in self.processes for part in process.decode if part.tokens == tokens for s in part.seconds
        ]


class Lambada(Record):
    """LAMBADA by example: the last word's log-likelihood, nats, and whether it is what greedy decoding gives."""

    log_likelihood: list[float]
    greedy: list[bool]


class Row(Record):
    """One way to run the model.

    Attributes:
        name: the variant's, or ``torch-<dtype>`` for the source as transformers runs it.
        quantized: whether any weight has fewer bits than the source's.
        runtime: library, kernel and dtype.
        bits_per_weight: `disk_bytes` in bits, for each of the source's parameters.
        disk_bytes: of an artifact's files that hold weights; of the source as a safetensors file in the row's dtype.
        manifest_sha256: of the artifact's manifest, which holds its files' hashes; None for the source.
        weights: drift of the weights, in fp32 arithmetic; None for the source, whose weights are the reference's.
        as_run: drift as run by `runtime`; None when it was not run, for the reason in `notes`.
        speeds: the first is the one that is compared, others are of other thread counts; none when not measured.
        lambada: as run; None when it was not measured.
        layers: what each layer's weights do; none for the source.
        notes: what a reader of the numbers should know.
    """

    name: str
    quantized: bool
    runtime: str
    bits_per_weight: float
    disk_bytes: int
    manifest_sha256: str | None = None
    weights: Drift | None = None
    as_run: Drift | None
    speeds: list[Speed] = Field(default_factory=list)
    lambada: Lambada | None = None
    layers: list[LayerError] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class GateOutcome(Record):
    """One limit on one measured value, in the gate's unit; `low` and `high` are the value's 95 % interval."""

    variant: str
    gate: str
    limit: float
    value: float
    low: float
    high: float
    outcome: Literal["passed", "failed", "undecided"]
    windows_needed: int | None = None


class Machine(Record):
    """What the numbers were measured on.

    Attributes:
        cpu: the processor's name.
        instruction_sets: those that decide speed and integer rounding.
        cores: processors that the process may use.
        memory_bytes: of the whole machine; None in files of schema version 1.
        system: operating system, release and architecture.
        accelerator: its name, driver included; None when none was used.
        versions: of the libraries that computed something.
    """

    cpu: str
    instruction_sets: list[str]
    cores: int
    memory_bytes: int | None
    system: str
    accelerator: str | None = None
    versions: dict[str, str]


class Results(Record):
    """Everything one benchmark run measured; what each version of sizes counts is said in docs/protocols.md."""

    schema_version: Literal[4] = CURRENT
    tool: str
    created: datetime
    source: SourceRecord
    text: TextRecord
    protocol: Protocol
    latency: LatencyProtocol | None
    lambada: LambadaProtocol | None = None
    size_version: Literal[1, 2] = 2
    machine: Machine
    reference_nll: list[float]
    baseline: str
    rows: list[Row]
    gates: list[GateOutcome] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def row(self, name: str) -> Row:
        """Return the row called `name`."""
        return next(row for row in self.rows if row.name == name)


def save_results(results: Results, path: Path) -> None:
    """Write a result file; an earlier one stays beside it, under a name with the time it was made.

    Raises:
        ArtifactError: another process writes it.
        StorageError: it cannot be written; the earlier one stays.
    """
    with target_lock(path):
        replace_file(path, results.model_dump_json(indent=1) + "\n", backup_name=_dated)


def _dated(path: Path) -> Path:
    made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return path.with_name(f"{path.stem}-{made:%Y%m%dT%H%M%S}{path.suffix}")


def load_results(path: Path) -> Results:
    """Read a result file, of this version or an older one.

    Raises:
        BenchmarkError: it is not there, damaged, or written by a newer version.
    """
    where, data = str(path), read_object(path, BenchmarkError)
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1 or "tool" not in data:
        raise BenchmarkError("is no result file of ours", where=where, hint="give a results.json that bench wrote")
    made = f"schema version {short(version)}, written by {str(data['tool'])[:80]}"
    if version > CURRENT:
        raise BenchmarkError(f"has {made}; this program reads up to {CURRENT}", where=where, hint="update pythia-quant")
    try:
        results = Results.model_validate(upgrade(data))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"is not as that version wrote it: {short(error)}"
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part)[:80] for part in first["loc"])
            reason = f"the field {key} is unknown" if first["type"] == "extra_forbidden" else f"{key}: {first['msg']}"
        raise BenchmarkError(f"{reason} ({made})", where=where, hint=_EDITED) from error
    if fault := first_fault(results):
        raise BenchmarkError(f"{fault.key}: {fault.why} ({made})", where=where, hint=_EDITED)
    return results
