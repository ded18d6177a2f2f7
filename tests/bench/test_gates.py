import math
from datetime import UTC, datetime

import pytest

from pythia_quant.bench.gates import evaluate_gates
from pythia_quant.manifest import SourceRecord, TextRecord
from pythia_quant.recipe import GateSettings
from pythia_quant.results import Drift, GateOutcome, Protocol, Results, Row, Speed

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


def decide(variant: Row, **gate: float) -> GateOutcome:
    results = Results(
        tool="", created=datetime.now(UTC), cpu="", cores=2, versions={}, baseline="torch-fp16",
        source=SourceRecord(model="m", revision="main", commit=None, sha256={}, parameters=1),
        text=TextRecord(name="t", sha256="", tokens=1, bytes=1),
        protocol=Protocol(context=32, windows=40), reference_nll=REFERENCE,
        rows=[row("torch-fp16", 0), row("torch-fp32", 0, decode=0.02), variant],
    )  # fmt: skip
    (outcome,) = evaluate_gates(results, {"variant": GateSettings(**gate)})
    return outcome


@pytest.mark.parametrize(
    ("shift", "noise", "expected"), [(0.001, 0.0, "passed"), (0.02, 0.0, "failed"), (0.004, 0.1, "undecided")]
)
def test_perplexity_drift_is_decided_by_its_interval(shift: float, noise: float, expected: str) -> None:
    outcome = decide(row("variant", shift, noise), max_ppl_drift=0.5)
    assert outcome.outcome == expected
    assert outcome.value == pytest.approx(100 * math.expm1(shift))
    if expected == "undecided":
        assert outcome.windows_needed is not None
        assert outcome.windows_needed > 40
    else:
        assert outcome.windows_needed is None


@pytest.mark.parametrize(("limit", "expected"), [(98.5, "passed"), (99.5, "failed"), (99.0, "undecided")])
def test_agreement_is_decided_by_its_interval(limit: float, expected: str) -> None:
    assert decide(row("variant", 0), min_top1=limit).outcome == expected


@pytest.mark.parametrize(("decode", "expected"), [(0.005, "passed"), (0.0099, "failed"), (0.0067, "undecided")])
def test_speed_up_is_against_the_fastest_unquantized_row(decode: float, expected: str) -> None:
    outcome = decide(row("variant", 0, decode=decode), min_speedup=1.5)
    assert outcome.outcome == expected
    assert outcome.value == pytest.approx(0.01 / decode)


def test_logits_that_are_not_finite_fail_every_gate_on_drift() -> None:
    broken = row("variant", 0).model_copy(update={"as_run": Drift(nll=[], kl=[], top1=[], non_finite=3)})
    assert decide(broken, max_ppl_drift=0.5).outcome == "failed"
    assert decide(broken, min_top1=90).outcome == "failed"
