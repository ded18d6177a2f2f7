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
from pythia_quant.records.manifest import Record, Sha256, SourceRecord, TextRecord
from pythia_quant.records.protocols import LambadaProtocol, LatencyProtocol, Protocol
from pythia_quant.records.results_check import CURRENT, find_fault, upgrade

RESULTS = "results.json"
QUICK_RESULTS = "quick.json"
"""The name of a quick look's result file: it does not take the place of a measurement."""
_EDITED = "it was edited, or a newer version wrote it"
_WANTED = "give a results.json that run or bench has left"
CONFIDENCES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""The edges of the bins of the reference's confidence, the probability of its most likely token."""


class Quantile(Record):
    """The `share` quantile of all tokens' values, and its 95 % interval, from the scatter of the windows."""

    share: float
    value: float
    low: float
    high: float


class ConfidenceBin(Record):
    """The positions at which the reference's most likely token has a probability from `low` up to `high`.

    Attributes:
        low: the least probability.
        high: the probability that these positions stay below; 1 is included.
        tokens: the number of these positions.
        kl: the mean KL divergence at these positions, nats.
        kl_error: the standard error of `kl`, from the scatter of the windows.
        top1: the share of these positions at which the most likely token is the reference's.
    """

    low: float
    high: float
    tokens: int
    kl: float
    kl_error: float
    top1: float


class Drift(Record):
    """How one set of logits differs from the reference's.

    The first four lists have a mean for each window, in the order of the windows. All fields but the first three are
    empty or 0 in files of schema version 1.

    Attributes:
        nll: the negative log-likelihood, nats a token.
        kl: the KL divergence from the reference, nats a token.
        top1: the share of positions at which the most likely token is the reference's.
        top5: the share of the reference's five most likely tokens that are among the five most likely of these logits.
            A token is among them if fewer than five have a higher logit.
        non_finite: the number of positions with a logit that is not finite; if there are any, the lists are empty.
        kl_quantiles: quantiles of the KL divergence at single positions.
        kl_histogram: the number of positions by the decimal logarithm of their KL divergence, in steps of a tenth from
            -12 to 2; the first and the last step also count what lies outside.
        by_confidence: the KL divergence by the reference's confidence.
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
    """The relative root-mean-square error that quantized weights make in a layer, on the first windows.

    Attributes:
        alone: the error of what this layer adds to the reference's hidden states, relative to what it should add.
        after: the error of the hidden states after this layer, when all layers up to it are quantized.
    """

    alone: float
    after: float


class Samples(Record):
    """The seconds of each prefill of a prompt of `tokens`, or of each token decoded after a context of `tokens`."""

    tokens: int
    seconds: list[float]


class SpeedProcess(Record):
    """The raw samples of one fresh process, one sequence at a time, without the warm-up.

    Attributes:
        load_seconds: the time from the start of loading until the model can run.
        first_token_seconds: the time of the first prefill, which has the shortest prompt, and of choosing the most
            likely token.
        prefill: the samples of prefills, by the length of the prompt.
        decode: the samples of decoded tokens, by the length of the context.
        start_rss_bytes: the resident size of the process before the model is loaded, with Python and libraries.
        peak_rss_bytes: the largest resident size of the process.
        peak_device_bytes: the peak of the accelerator's memory; None on the CPU.
        read_bytes_per_second: the speed at which a buffer as large as the weights was read just afterwards.
        others: the share, 0 to 1, of all processors' time that other programs and the host took meanwhile.
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
    """The speed of a row on one device with one number of threads.

    Attributes:
        device: ``cpu``, or the accelerator's name.
        threads: the threads of the numeric library.
        weight_bytes: the bytes of weights that are read to decode a token, all but the embeddings; None if unknown.
        processes: the samples of each round's process.
        disturbed: why the samples cannot be trusted; empty if nothing was noticed.
    """

    device: str = "cpu"
    threads: int
    weight_bytes: int | None
    processes: list[SpeedProcess]
    disturbed: str = ""

    def prefill_seconds(self, tokens: int) -> list[float]:
        """Return the seconds of each prefill of a prompt of `tokens`, of all processes."""
        return [
            s for process in self.processes for part in process.prefill if part.tokens == tokens for s in part.seconds
        ]

    def decode_seconds(self, tokens: int) -> list[float]:
        """Return the seconds of each token decoded after a context of `tokens`, of all processes."""
        return [
            s for process in self.processes for part in process.decode if part.tokens == tokens for s in part.seconds
        ]


class Lambada(Record):
    """LAMBADA by passage.

    Attributes:
        log_likelihood: the log-likelihood of each last word, nats.
        greedy: whether greedy decoding gives this word.
    """

    log_likelihood: list[float]
    greedy: list[bool]


class Foreign(Record):
    """What others made, and who says so: nothing proves that its files are the ones that its maker published.

    Attributes:
        kind: the kind of artifact, such as ``gptq`` or ``onnx``.
        place: the folder, the file or the ``hf://`` name that the user gave.
        commit: the commit of a repository of a hub; None for what is on this machine.
        stored: how its weights are stored, in words.
        tokenizer: whether it has a tokenizer of its own, which encodes as the source's does, or the source's was used.
        files: the hex SHA-256 of each file that holds weights, by its path in the artifact.
    """

    kind: str
    place: str
    commit: str | None
    stored: str
    tokenizer: Literal["own", "source"]
    files: dict[str, Sha256]


class Row(Record):
    """What was measured of a variant, of the source in a dtype, or of what others made of it.

    Attributes:
        name: the variant's name, or ``torch-<dtype>`` for the source as transformers runs it.
        quantized: whether a weight has fewer bits than in the source.
        runtime: the library, kernel and dtype that computed the logits.
        bits_per_weight: the bits in `disk_bytes`, divided by the number of the source's parameters.
        disk_bytes: the bytes of the artifact's files that hold weights, or of the source as one safetensors file in the
            row's dtype.
        manifest_sha256: the hex SHA-256 of the artifact's manifest, which holds its files' hashes; None for the source.
        foreign: what others made; None for the source and for artifacts of ours.
        weights: the drift of the weights in fp32 arithmetic; None for the source, whose weights are the reference's,
            and for a graph that cannot be taken apart.
        as_run: the drift of the runtime's logits; None if the row was not run; `notes` says why.
        speeds: the speeds by numbers of threads; tables compare the first. None are there if speed was not measured.
        lambada: the runtime's answers to LAMBADA; None if LAMBADA was not measured.
        layers: the error of each layer; none where there are no `weights`.
        notes: sentences that a reader of the numbers should know.
    """

    name: str
    quantized: bool
    runtime: str
    bits_per_weight: float
    disk_bytes: int
    manifest_sha256: str | None = None
    foreign: Foreign | None = None
    weights: Drift | None = None
    as_run: Drift | None
    speeds: list[Speed] = Field(default_factory=list)
    lambada: Lambada | None = None
    layers: list[LayerError] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class GateOutcome(Record):
    """A gate's limit, the measured value with the ends of its 95 % interval, and the outcome.

    `windows_needed` estimates how many windows would decide a gate that is undecided.
    """

    variant: str
    gate: str
    limit: float
    value: float
    low: float
    high: float
    outcome: Literal["passed", "failed", "undecided"]
    windows_needed: int | None = None


class Machine(Record):
    """The machine that the numbers were measured on.

    Attributes:
        cpu: the processor's name.
        instruction_sets: the instruction sets that decide speed and integer rounding.
        cores: the number of processors that the process could use.
        memory_bytes: the memory of the whole machine; None in files of schema version 1.
        system: the operating system, its release, and the architecture.
        accelerator: the accelerator's name and driver; None if none was used.
        versions: the versions of the libraries that computed numbers, by name.
    """

    cpu: str
    instruction_sets: list[str]
    cores: int
    memory_bytes: int | None
    system: str
    accelerator: str | None = None
    versions: dict[str, str]


class Results(Record):
    """Everything that a benchmark measured. docs/protocols.md says what each `size_version` counts.

    `quick` results are of few windows, passages and rounds, for a first impression.
    """

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
    quick: bool = False
    reference_nll: list[float]
    baseline: str
    rows: list[Row]
    gates: list[GateOutcome] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def row(self, name: str) -> Row:
        """Return the row called `name`."""
        return next(row for row in self.rows if row.name == name)


def save_results(results: Results, path: Path) -> None:
    """Write a result file; an earlier one stays beside it, under a name that has its time.

    Raises:
        ArtifactError: another process is writing the file.
        StorageError: the file cannot be written; the earlier one is unchanged.
    """
    with target_lock(path):
        replace_file(path, results.model_dump_json(indent=1) + "\n", backup_name=_name_with_time)


def _name_with_time(path: Path) -> Path:
    made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return path.with_name(f"{path.stem}-{made:%Y%m%dT%H%M%S}{path.suffix}")


def load_results(path: str | Path) -> Results:
    """Read a result file that this version or an older one wrote.

    Raises:
        BenchmarkError: the file is missing or damaged, or a newer version wrote it.
    """
    where, data = str(path), read_object(Path(path), BenchmarkError, _WANTED)
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1 or "tool" not in data:
        raise BenchmarkError("is no result file of ours", where=where, hint=_WANTED)
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
    if fault := find_fault(results):
        raise BenchmarkError(f"{fault.key}: {fault.why} ({made})", where=where, hint=_EDITED)
    return results
