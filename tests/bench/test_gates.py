import math
from typing import Literal

import pytest
import scipy.stats
import typer
from measured import results, row

from pythia_quant.bench.gates import apply_gates, describe_gate, evaluate_gates
from pythia_quant.cli.gates import exit_by_gates
from pythia_quant.recipe.measurement import GateSettings
from pythia_quant.records.results import Drift, GateOutcome, Results, Row, Samples


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
    outcome = decide(row("variant", 0).model_copy(update={"as_run": None}), max_kl=1.0)
    assert outcome.outcome == "undecided"
    assert "it was not measured" in describe_gate(outcome)


def test_a_gate_on_speed_that_was_not_to_be_measured_has_no_outcome_and_its_row_says_so() -> None:
    silent = [row(name, 0).model_copy(update={"speeds": []}) for name in ("torch-fp16", "variant", "other")]
    measured = results(*silent).model_copy(update={"latency": None})
    gates = {"variant": GateSettings(max_kl=20, min_speedup=1), "other": GateSettings(max_kl=20)}
    decided = apply_gates(measured, gates)
    assert [(gate.variant, gate.gate, gate.outcome) for gate in decided.gates] == [
        ("variant", "max_kl", "passed"), ("other", "max_kl", "passed"),
    ]  # fmt: skip
    assert [one.notes for one in decided.rows] == [
        [], ["no gate min_speedup: the recipe asks for no speed (latency.rounds is 0)"], [],
    ]  # fmt: skip
    exit_by_gates(decided)
    with_speed = apply_gates(results(row("torch-fp16", 0), row("variant", 0)), gates)
    assert [gate.gate for gate in with_speed.gates] == ["max_kl", "min_speedup"]
    assert with_speed.row("variant").notes == []


def test_a_gate_on_speed_has_no_outcome_where_a_model_does_not_fit_in_memory() -> None:
    gates = {"variant": GateSettings(max_kl=20, min_speedup=1)}
    rows = [row("torch-fp16", 0), row("variant", 0)]

    def without_speed(large: int) -> Results:
        """Return the decided results if the row at this place runs layer by layer."""
        rows_run = [one.model_copy(update={"speeds": []}) if place == large else one for place, one in enumerate(rows)]
        return apply_gates(results(*rows_run), gates)

    for large, note in (
        (1, "no gate min_speedup: the speed of a model that does not fit in memory whole is not measured"),
        (0, "no gate min_speedup: no unquantized row fits in memory whole, so none has a speed to compare with"),
    ):
        decided = without_speed(large)
        assert [(gate.gate, gate.outcome) for gate in decided.gates] == [("max_kl", "passed")]
        assert decided.row("variant").notes == [note]
        exit_by_gates(decided)


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


def test_over_several_rounds_ratios_are_taken_within_them() -> None:
    def rounds(name: str, *seconds: float) -> Row:
        found = row(name, 0)
        (process,) = found.speeds[0].processes
        processes = [
            process.model_copy(update={"decode": [Samples(tokens=8, seconds=[s, s * 0.8, s * 1.2])]}) for s in seconds
        ]
        return found.model_copy(update={"speeds": [found.speeds[0].model_copy(update={"processes": processes})]})

    # The machine is slower in each round, by as much for both: 2.0, 2.0 and 2.1 times as fast.
    other, variant = rounds("torch-fp32", 0.010, 0.015, 0.021), rounds("variant", 0.005, 0.0075, 0.010)
    measured = results(rounds("torch-fp16", 1, 1, 1), other, variant)
    (outcome,) = evaluate_gates(measured, {"variant": GateSettings(min_speedup=1.8)})
    assert outcome.outcome == "passed"
    ratios = [math.log(2), math.log(2), math.log(2.1)]
    low, high = scipy.stats.t.interval(0.95, 2, loc=sum(ratios) / 3, scale=scipy.stats.sem(ratios))
    assert outcome.value == pytest.approx(math.exp(sum(ratios) / 3))
    assert (outcome.low, outcome.high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-3)
