"""Result files made by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from pythia_quant.records.manifest import SourceRecord, TextRecord
from pythia_quant.records.protocols import LambadaProtocol, LatencyProtocol, Protocol
from pythia_quant.records.results import (
    Drift,
    Lambada,
    Machine,
    Results,
    Row,
    Samples,
    Speed,
    SpeedProcess,
)

REFERENCE = [3.0, 3.1, 2.9, 3.0] * 10
SIGNS = [1, 1, 1, 1, 1, -1, -1, -1, -1, -1] * 4  # of noise: alternates from batch to batch, within one it is all alike


def row(name: str, shift: float, noise: float = 0.0, top1: float = 0.99, decode: float = 0.01) -> Row:
    nll = [value + shift + noise * sign for sign, value in zip(SIGNS, REFERENCE, strict=True)]
    drift = Drift(nll=nll, kl=[0.01] * 40, top1=[top1 + 0.001 * sign for sign in SIGNS])
    process = SpeedProcess(
        load_seconds=1, first_token_seconds=0.1, prefill=[Samples(tokens=8, seconds=[1.0])],
        decode=[Samples(tokens=8, seconds=[decode * (1 + 0.01 * i) for i in range(11)])],
        start_rss_bytes=0, peak_rss_bytes=1,
    )  # fmt: skip
    speed = Speed(threads=2, weight_bytes=None, processes=[process])
    quantized = name == "variant"
    return Row(
        name=name, quantized=quantized, runtime="", bits_per_weight=4, disk_bytes=1, as_run=drift, speeds=[speed]
    )  # fmt: skip


def results(*rows: Row) -> Results:
    return Results(
        tool="", created=datetime.now(UTC), baseline=rows[0].name,
        machine=Machine(cpu="", instruction_sets=[], cores=2, memory_bytes=None, system="", versions={}),
        latency=LatencyProtocol(prompts=[8], contexts=[8], decoded=11, repetitions=1, warm_up=0, rounds=1),
        source=SourceRecord(model="m", revision="main", commit=None, sha256={}, parameters=1),
        text=TextRecord(name="t", sha256="", tokens=1, bytes=1),
        protocol=Protocol(context=32, windows=40), reference_nll=REFERENCE, rows=list(rows),
    )  # fmt: skip


def lambada_run(hits: int, perplexity: float) -> Results:
    """Return results of pythia-160m whose baseline was measured on all of LAMBADA; log-likelihoods deviate by 2.7."""
    mean, half = -math.log(perplexity), 2576
    likelihoods = [mean - 2.7] * half + [mean + 2.7] * half + [mean]
    scores = Lambada(log_likelihood=likelihoods, greedy=[True] * hits + [False] * (2 * half + 1 - hits))
    run = results(row("torch-fp16", 0.0001).model_copy(update={"lambada": scores}), row("variant", 0.02))
    source = run.source.model_copy(update={"model": "EleutherAI/pythia-160m", "commit": "50f5173d932e8e61"})
    sha256 = "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"
    protocol = LambadaProtocol(file="lambada_test_en.jsonl", sha256=sha256, examples=5_153)
    return run.model_copy(update={"source": source, "lambada": protocol})
