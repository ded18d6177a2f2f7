"""The conditions under which numbers were measured, in words: source, text, protocols, machine."""

from __future__ import annotations

from typing import NamedTuple

from pythia_quant.bench.agreement import describe_published, disagreement
from pythia_quant.bench.metrics import bits_per_byte, outdated, outdated_sizes, plus_minus, reference_perplexity
from pythia_quant.records.results import Results, Row
from pythia_quant.report.files import ResultFile

QUICK = "quick look"
"""What stands beside the numbers of a measurement of few windows."""

PERCENTILES = "from the 10th to the 90th percentile"


class Fact(NamedTuple):
    """One line of a list; `code` is shown in a fixed-width font."""

    term: str
    text: str
    code: str = ""


def made_by(row: Row) -> str:
    """Return who made what a row measures: ``source``, ``ours``, or ``others``, whose files nothing proves."""
    return "others" if row.foreign else "ours" if row.manifest_sha256 else "source"


def source_line(results: Results) -> str:
    """Return model, revision, commit and number of parameters of the source."""
    source = results.source
    commit = f", commit {source.commit[:12]}" if source.commit else ""
    return f"{source.model} at {source.revision}{commit}, {source.parameters:,} parameters"


def text_line(results: Results) -> str:
    """Return the drift protocol and the text it was applied to."""
    protocol, text = results.protocol, results.text
    return (
        f"{_quick(results)}{protocol.name} v{protocol.version}: {protocol.windows} × {protocol.context:,} tokens of "
        f"{text.name} (sha256 {text.sha256[:12]})"
    )


def latency_line(results: Results) -> str:
    """Return the protocol of speed; empty when speed was not measured."""
    latency = results.latency
    if latency is None:
        return ""
    threads = sorted({row.speeds[0].threads for row in results.rows if row.speeds})
    return (
        f"{_quick(results)}{latency.name} v{latency.version}: batch 1, {' or '.join(map(str, threads))} threads, "
        f"prefill of {latency.prompt:,} and decode after {latency.context:,} tokens, "
        f"{latency.rounds} {'process' if latency.rounds == 1 else 'processes'} a row"
    )


def _quick(results: Results) -> str:
    return f"{QUICK}: " if results.quick else ""


def size_line(results: Results) -> str:
    """Return what the sizes count; for sizes of version 1, a remark explains it."""
    if results.size_version == 1:
        return "size v1"
    return (
        "size v2: all bytes of the files that hold weights, and their bits for each of the source's parameters; of the "
        "source itself, a safetensors file in the row's dtype"
    )


def machine_line(results: Results) -> str:
    """Return processor, cores, memory and system."""
    machine = results.machine
    parts = [machine.cpu, f"{machine.cores} cores"]
    parts += [f"{machine.memory_bytes / 1e9:.0f} GB"] if machine.memory_bytes else []
    parts += [machine.accelerator] if machine.accelerator else []
    # Files of schema version 1 have no system.
    return ", ".join([*parts, "system not recorded" if machine.system == "not recorded" else machine.system])


def reference_line(results: Results) -> str:
    """Return the reference's perplexity and bits a byte."""
    reference = reference_perplexity(results)
    return (
        f"perplexity {plus_minus(reference)}, "
        f"{bits_per_byte(results, results.reference_nll).value:.3f} bits a byte, by the source's weights in fp32"
    )


def facts(file: ResultFile) -> list[Fact]:
    """Return the conditions under which the numbers of a file were measured."""
    results = file.results
    machine, latency = results.machine, results.latency
    conditions = [
        Fact(
            "Source", f"{results.source.model} at {results.source.revision}, {results.source.parameters:,} parameters"
        ),
        Fact("Commit", "" if results.source.commit else "none: not from a hub", results.source.commit or ""),
        *(Fact(f"sha256 of {name}", "", digest) for name, digest in results.source.sha256.items()),
        Fact("Text", f"{results.text.name}: {results.text.tokens:,} tokens, {results.text.bytes:,} bytes"),
        Fact("sha256 of the text", "", results.text.sha256),
        Fact("Reference", reference_line(results)),
        Fact(
            "Protocol of drift",
            f"{results.protocol.name}, version {results.protocol.version}: {results.protocol.windows} windows of "
            f"{results.protocol.context:,} tokens; intervals are of 95 %, from means of neighbouring windows",
        ),
    ]
    if latency:
        conditions.append(
            Fact(
                "Protocol of speed",
                f"{latency.name}, version {latency.version}: batch 1; prefill of {_numbers(latency.prompts)} tokens, "
                f"{latency.repetitions} times; {latency.decoded} tokens decoded after {_numbers(latency.contexts)}; "
                f"{latency.warm_up} to warm up; fresh processes a row: {latency.rounds}; medians, and ranges "
                f"{PERCENTILES}",
            )
        )
    if results.lambada:
        conditions.append(
            Fact(
                "Protocol of LAMBADA",
                f"{results.lambada.name}, version {results.lambada.version}: {results.lambada.examples:,} examples of "
                f"{results.lambada.file}",
                results.lambada.sha256,
            )
        )
    if published := describe_published(results):
        conditions.append(Fact("LAMBADA of others", published))
    conditions.append(Fact("Protocol of size", size_line(results)))
    sets = " ".join(machine.instruction_sets)
    return [
        *conditions,
        Fact("Machine", machine_line(results)),
        *([Fact("Instruction sets", sets)] if sets else []),
        Fact("Versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        Fact("Measured", f"{results.created:%Y-%m-%d %H:%M %Z} with {results.tool}"),
        Fact("Result file", f"{file.path.name}, sha256", file.sha256),
    ]


def remarks(results: Results) -> list[tuple[str, str]]:
    """Return the remarks that a reader of the numbers should know, each after the name of its row or of the source."""
    notes = [note for note in (outdated(results), outdated_sizes(results), *results.notes) if note]
    entries = [(results.source.model, note.rstrip(".")) for note in notes]
    entries += [(results.baseline, warning.rstrip(".")) for warning in [disagreement(results)] if warning]
    entries += [(row.name, note.rstrip(".")) for row in results.rows for note in row.notes]
    for row in results.rows:
        entries += [
            (row.name, f"{speed.disturbed} (with {speed.threads} threads)") for speed in row.speeds if speed.disturbed
        ]
        if row.as_run and row.as_run.non_finite:
            entries.append((row.name, f"logits were not finite at {row.as_run.non_finite:,} positions"))
    return entries


def _numbers(values: list[int]) -> str:
    return ", ".join(f"{value:,}" for value in values)
