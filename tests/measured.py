"""Result files made by hand."""

from __future__ import annotations

from datetime import UTC, datetime

from pythia_quant.manifest import SourceRecord, TextRecord
from pythia_quant.results import Drift, Protocol, Results, Row, Speed

REFERENCE = [3.0, 3.1, 2.9, 3.0] * 10


def row(name: str, shift: float, noise: float = 0.0, top1: float = 0.99, decode: float = 0.01) -> Row:
    nll = [value + shift + noise * (-1) ** i for i, value in enumerate(REFERENCE)]
    drift = Drift(nll=nll, kl=[0.01] * 40, top1=[top1 + 0.001 * (-1) ** i for i in range(40)])
    speed = Speed(
        threads=2, load_seconds=1, prompt_tokens=8, prefill_seconds=[1.0], decode_prompt_tokens=8,
        decode_seconds=[decode * (1 + 0.01 * i) for i in range(11)], start_rss_bytes=0, peak_rss_bytes=1,
    )  # fmt: skip
    quantized = name == "variant"
    return Row(
        name=name, quantized=quantized, runtime="", bits_per_weight=4, disk_bytes=1, as_run=drift, speed=speed
    )  # fmt: skip


def results(*rows: Row) -> Results:
    return Results(
        tool="", created=datetime.now(UTC), cpu="", cores=2, versions={}, baseline=rows[0].name,
        source=SourceRecord(model="m", revision="main", commit=None, sha256={}, parameters=1),
        text=TextRecord(name="t", sha256="", tokens=1, bytes=1),
        protocol=Protocol(context=32, windows=40), reference_nll=REFERENCE, rows=list(rows),
    )  # fmt: skip
