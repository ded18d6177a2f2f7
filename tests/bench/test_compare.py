from collections.abc import Callable

import pytest
from measured import results, row

from pythia_quant.bench.compare import Change, compare_results
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.records.results import Results, Row


def change(before: Row, after: Row, metric: str) -> Change:
    found = compare_results(results(before), results(after))
    return next(change for change in found.changes if change.metric == metric and change.row == before.name)


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "same"), (0.003, "worse"), (-0.003, "better")])
def test_perplexity_is_compared_window_by_window(shift: float, verdict: str) -> None:
    # The windows differ by 0.2, a hundred times the change: unpaired it would drown.
    found = change(row("variant", 0.01, noise=0.2), row("variant", 0.01 + shift, noise=0.2), "ppl_drift")
    assert found.verdict == verdict
    assert found.difference.high - found.difference.low < 1e-6


def test_a_change_within_its_error_is_none() -> None:
    found = change(row("variant", 0.01), row("variant", 0.012, noise=0.02), "ppl_drift")
    assert found.verdict == "same"
    assert found.difference.low < 0 < found.difference.high


def test_a_difference_of_rounding_is_none() -> None:
    before = row("variant", 0.02)
    assert before.as_run is not None
    drift = before.as_run.model_copy(update={"kl": [value * (1 + 1e-6) for value in before.as_run.kl]})
    assert change(before, before.model_copy(update={"as_run": drift}), "kl").verdict == "same"


@pytest.mark.parametrize(("decode", "verdict"), [(0.0105, "same"), (0.012, "worse"), (0.008, "better")])
def test_speeds_differ_when_their_spreads_do_not_meet(decode: float, verdict: str) -> None:
    assert change(row("variant", 0), row("variant", 0, decode=decode), "decode").verdict == verdict


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [([1.0, 1.1], [1.6, 1.7], "same"), ([1.0, 1.1, 1.05], [2.0, 2.1, 2.05], "worse"), ([1.0], [9.0], "same")],
)
def test_a_few_processes_that_are_alike_by_chance_show_no_change(
    before: list[float], after: list[float], verdict: str
) -> None:
    def loading(seconds: list[float]) -> Row:
        found = row("variant", 0)
        (process,) = found.speeds[0].processes
        processes = [process.model_copy(update={"load_seconds": load}) for load in seconds]
        return found.model_copy(update={"speeds": [found.speeds[0].model_copy(update={"processes": processes})]})

    assert change(loading(before), loading(after), "load").verdict == verdict


def test_higher_agreement_is_better() -> None:
    assert change(row("variant", 0), row("variant", 0, top1=0.995), "top1").verdict == "better"


def on_another_text(other: Results) -> Results:
    return other.model_copy(update={"text": other.text.model_copy(update={"sha256": "another"})})


def with_fewer_windows(other: Results) -> Results:
    return other.model_copy(update={"protocol": other.protocol.model_copy(update={"windows": 39})})


def of_version_1(other: Results) -> Results:
    return other.model_copy(update={"protocol": other.protocol.model_copy(update={"version": 1})})


@pytest.mark.parametrize(
    ("change_it", "message"),
    [(on_another_text, "another text"), (with_fewer_windows, "protocol"), (of_version_1, "versions 2 and 1")],
)
def test_results_on_other_texts_or_protocols_are_refused(change_it: Callable[[Results], Results], message: str) -> None:
    one = results(row("variant", 0))
    with pytest.raises(BenchmarkError, match=message):
        compare_results(one, change_it(one))


def test_what_is_not_comparable_is_said() -> None:
    one = results(row("torch-fp16", 0), row("variant", 0))
    assert one.latency is not None
    other = results(row("torch-fp16", 0), row("new", 0)).model_copy(
        update={"latency": one.latency.model_copy(update={"rounds": 3})}
    )
    found = compare_results(one, other)
    assert {"Only the first result has variant.", "Only the second result has new."} < set(found.notes)
    assert any("different protocols" in note for note in found.notes)
    assert "decode" not in {change.metric for change in found.changes}


def test_sizes_that_were_counted_otherwise_are_not_compared() -> None:
    one = results(row("variant", 0))
    larger = results(row("variant", 0).model_copy(update={"disk_bytes": 2, "bits_per_weight": 8}))
    sizes = {"disk", "bits_per_weight"}
    changed = compare_results(one, larger)
    assert sizes == {change.metric for change in changed.worse}
    assert not any("Sizes" in note for note in changed.notes)
    old = one.model_copy(update={"size_version": 1})
    for pair in ((old, larger), (larger, old)):
        found = compare_results(*pair)
        assert not sizes & {change.metric for change in found.changes}
        assert sum("Sizes were counted by version 1" in note for note in found.notes) == 1
    assert sizes < {change.metric for change in compare_results(old, old).changes}


def test_two_results_of_version_1_are_compared_and_marked() -> None:
    one = of_version_1(results(row("variant", 0)))
    assert sum("intervals are too narrow" in note for note in compare_results(one, one).notes) == 1
