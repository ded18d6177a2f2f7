"""Curves from lines, and how they change over training, against numbers computed here."""

import math
from statistics import fmean, stdev

import pytest
import sweep_tables as made

from pythia_quant.sweep.series import Panel, changes, counts, panels, uses_tokens, value_of


def panel(name: str, found: list[Panel]) -> Panel:
    (one,) = (panel for panel in found if panel.name == name)
    return one


@pytest.fixture(scope="module")
def found() -> list[Panel]:
    return panels([("study", made.study())], [""], "kl")


def test_there_is_a_panel_for_each_size_from_small_to_large_with_a_curve_for_each_variant(found: list[Panel]) -> None:
    assert [one.name for one in found] == ["70m", "160m"]
    for one in found:
        assert [curve.variant for curve in one.curves] == list(made.VARIANTS)
        assert one.floor is one.curves[0]
        assert all(len(curve.runs) == 3 for curve in one.curves)
    assert uses_tokens(found)


def test_a_mean_over_seeds_has_student_s_interval(found: list[Panel]) -> None:
    for size in made.SIZES:
        for curve in panel(size, found).curves:
            for step in (0, 64, 143000):
                values = [made.kl(curve.variant, size, seed, step) for seed in made.SEEDS]
                point = curve.at(step)
                assert point is not None
                assert point.seeds == 3
                assert point.value.value == pytest.approx(fmean(values))
                margin = 4.303 * stdev(values) / math.sqrt(3)  # the t of two degrees of freedom
                assert point.value.high - point.value.value == pytest.approx(margin)


def test_what_is_missing_failed_or_repeated_is_in_no_curve(found: list[Panel]) -> None:
    small, large = found
    for curve in small.curves:
        at = curve.at(512)
        assert at is not None
        assert at.seeds == 2
    assert [point.step for point in large.curves[0].mean] == [step for step in made.STEPS if step != 1]
    failed = large.curves[-1].at(64000)
    assert failed is not None
    assert failed.seeds == 2
    drawn = sum(len(run) for one in found for curve in one.curves for run in curve.runs)
    assert drawn == sum(counts(line) for line in made.study()) == 192 - 12 - 4 - 1


def test_one_run_keeps_its_own_interval() -> None:
    lines = made.study(["70m"], [1])
    (one,) = panels([("study", lines)], [""], "kl")
    values = {(line["variant"], line["step"]): value_of(line, "kl") for line in lines}
    for curve in one.curves:
        assert len(curve.runs) == 1
        assert {(curve.variant, point.step): point.value for point in curve.mean} == {
            key: value for key, value in values.items() if key[0] == curve.variant
        }


def test_the_factor_of_seeds_is_the_geometric_mean_of_each_seed_against_itself(found: list[Panel]) -> None:
    for change in changes(found):
        own = (change.curve.variant, change.panel.name)
        logs = [math.log(made.kl(*own, seed, 143000) / made.kl(*own, seed, 0)) for seed in made.SEEDS]
        assert change.factor is not None
        assert change.factor.value == pytest.approx(math.exp(fmean(logs)))
        margin = 4.303 * stdev(logs) / math.sqrt(3)
        assert change.factor.low == pytest.approx(math.exp(fmean(logs) - margin))
        assert change.factor.high == pytest.approx(math.exp(fmean(logs) + margin))


def test_the_factor_of_one_run_adds_both_relative_errors() -> None:
    (one,) = panels([("study", made.study(["70m"], [1]))], [""], "kl")
    for change in changes([one]):
        assert change.factor is not None
        ratio = change.last.value.value / change.first.value.value
        assert change.factor.value == pytest.approx(ratio)
        assert math.log(change.factor.high / ratio) == pytest.approx(math.hypot(0.05, 0.05))


def test_steps_at_the_floor_are_counted() -> None:
    lines = made.study(["70m"], [1])
    for line in lines:
        if line["variant"] == "bnb-int8" and line["step"] <= 64:
            line |= {"kl": 0.0001, "kl_low": 0.0, "kl_high": 0.0002}
    counted = {
        one.curve.variant: (one.steps_at_floor, one.steps) for one in changes(panels([("s", lines)], [""], "kl"))
    }
    assert counted == {"torch-fp16": (8, 8), "bnb-int8": (3, 8), "onnx-int4": (0, 8), "gptq-int3": (0, 8)}
    without = [line for line in lines if line["variant"] != "torch-fp16"]
    assert {one.steps_at_floor for one in changes(panels([("s", without)], [""], "kl"))} == {None}


def test_tables_and_families_have_panels_of_their_own_and_two_models_of_a_seed_have_runs_of_their_own() -> None:
    plain, deduped = made.study(["70m"], [0]), made.study(["70m"], [0])
    for line in deduped:
        line |= {"family": "deduped", "model": "EleutherAI/pythia-70m-deduped"}
    names = [one.name for one in panels([("a", plain + deduped), ("b", plain)], ["A", "B"], "kl")]
    assert names == ["A 70m plain", "A 70m deduped", "B 70m"]
    for line in deduped:
        line["family"] = "plain"
    (one,) = panels([("a", plain + deduped)], [""], "kl")
    assert all(len(curve.runs) == 2 and len(curve.mean) == 8 for curve in one.curves)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_value_that_is_not_finite_is_not_drawn(value: float | None) -> None:
    lines = [made.line("70m", 1, 64, "gptq-int3", kl=value), made.line("70m", 1, 512, "gptq-int3", kl_low=None)]
    (one,) = panels([("s", lines)], [""], "kl")
    (point,) = one.curves[0].mean
    assert point.step == 512
    assert point.value.low == point.value.value < point.value.high
    assert changes([one])[0].factor is None


def test_the_spread_over_seeds_stands_beside_the_drift_of_the_perplexity_alone() -> None:
    lines = made.apart(made.study())
    small, large = panels([("s", lines)], [""], "ppl_drift")
    assert [point.step for point in small.spread] == list(made.STEPS)
    # Step 512 of one seed of the smaller size is missing; step 1 of the larger one repeats the weights of another.
    assert [point.seeds for point in small.spread] == [2 if step == 512 else 3 for step in made.STEPS]
    assert [point.step for point in large.spread] == [step for step in made.STEPS if step != 1]
    for point in small.spread:
        seeds = [1, 3] if point.seeds == 2 else [1, 2, 3]
        assert point.value.value == pytest.approx(100 * math.log(1.01) * stdev(seeds))
        assert point.value.low < point.value.value < point.value.high
    assert all(not one.spread for one in panels([("s", lines)], [""], "kl"))


def test_seeds_of_other_kinds_and_a_single_seed_have_no_spread() -> None:
    lines = made.apart(made.study(["160m"], [1, 2]))
    for line in lines:
        line["model"] = f"EleutherAI/pythia-160m-weight-seed{line['seed']}"
    for table in (lines, made.apart(made.study(["160m"], [1]))):
        (one,) = panels([("s", table)], [""], "ppl_drift")
        assert list(one.spread) == []
