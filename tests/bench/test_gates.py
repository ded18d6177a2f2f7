import math
from typing import Literal

import pytest
import typer
from measured import results, row

from pythia_quant.bench.gates import describe, evaluate_gates
from pythia_quant.cli import exit_by_gates
from pythia_quant.measuring import GateSettings
from pythia_quant.results import Drift, GateOutcome, Row


def decide(variant: Row, **gate: float) -> GateOutcome:
    measured = results(row("torch-fp16", 0), row("torch-fp32", 0, decode=0.02), variant)
    (outcome,) = evaluate_gates(measured, {"variant": GateSettings(**gate)})
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


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "passed"), (5.0, "failed")])
def test_divergence_is_limited_in_thousandths_of_a_nat(shift: float, expected: str) -> None:
    assert decide(row("variant", 0), max_kl=10.5 - shift).outcome == expected  # all windows have 10


def test_what_was_not_measured_leaves_a_gate_undecided() -> None:
    silent = row("variant", 0).model_copy(update={"speeds": [], "as_run": None})
    for gate in ("max_kl", "min_speedup"):
        outcome = decide(silent, **{gate: 1.0})
        assert outcome.outcome == "undecided"
        assert "it was not measured" in describe(outcome)


@pytest.mark.parametrize(
    ("outcomes", "code"), [(["passed"], None), (["passed", "undecided"], 4), (["undecided", "failed"], 3)]
)
def test_the_exit_code_says_the_worst(
    outcomes: list[Literal["passed", "failed", "undecided"]], code: int | None
) -> None:
    gates = [
        GateOutcome(variant="v", gate="max_kl", limit=1, value=1, low=0, high=2, outcome=outcome)
        for outcome in outcomes
    ]
    measured = results(row("torch-fp16", 0)).model_copy(update={"gates": gates})
    if code is None:
        exit_by_gates(measured)
        return
    with pytest.raises(typer.Exit) as raised:
        exit_by_gates(measured)
    assert raised.value.exit_code == code
