import math

import plausible
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured import results, row

from pythia_quant.bench.gates import evaluate_gates
from pythia_quant.bench.metrics import Value
from pythia_quant.recipe.measurement import GateSettings
from pythia_quant.records.results import Drift, GateOutcome, Results, Row
from pythia_quant.report.gate_table import gate_table
from pythia_quant.report.headlines import headlines, rank_values


def variant(name: str, bits: float, kl: float = 0.01, decode: float = 0.01) -> Row:
    one = row("variant", 0.001, decode=decode)
    assert one.as_run is not None
    drift = one.as_run.model_copy(update={"kl": [kl] * 40})
    return one.model_copy(update={"name": name, "bits_per_weight": bits, "as_run": drift})


def with_gates(run: Results, **gates: GateSettings) -> Results:
    return run.model_copy(update={"gates": evaluate_gates(run, gates)})


def test_the_three_answers_are_of_quantized_rows() -> None:
    run = results(
        row("torch-fp16", 0).model_copy(update={"bits_per_weight": 16}),
        variant("small", 3, kl=0.05, decode=0.02), variant("fast", 5, kl=0.02, decode=0.001),
        variant("close", 8, kl=0.001),
    )  # fmt: skip
    smallest, fastest, closest = headlines(run)
    assert (smallest.title, smallest.row, smallest.number) == ("Smallest", "small", "3.00 bits a weight")
    assert "5.3 times smaller than torch-fp16" in smallest.details[0]
    assert (fastest.row, closest.row) == ("fast", "close")
    assert "1.05 ms/token" in fastest.number
    assert "10.00 times as fast as torch-fp16" in fastest.details
    assert closest.number.startswith("1.00")
    assert headlines(results(row("torch-fp16", 0))) == []


def test_the_smallest_passes_all_of_its_gates_and_smaller_ones_are_named() -> None:
    rows = (row("torch-fp16", 0), variant("tiny", 2, kl=0.5), variant("free", 3), variant("good", 4))
    gates = {"tiny": GateSettings(max_kl=20), "good": GateSettings(max_kl=20, min_top1=98)}
    smallest = headlines(with_gates(results(*rows), **gates))[0]
    assert (smallest.title, smallest.row) == ("Smallest within its gates", "good")
    assert list(smallest.details[1:]) == [
        "smaller, but not within their gates: tiny",
        "smaller, but without gates: free",
    ]
    none = headlines(with_gates(results(*rows), tiny=GateSettings(max_kl=20)))[0]
    assert (none.row, none.number) == (None, "No variant passes all of its gates.")


def test_rows_within_error_and_faster_unquantized_ones_are_named() -> None:
    run = results(row("torch-fp16", 0, decode=0.001), variant("one", 4, decode=0.0101), variant("two", 4, decode=0.01))
    smallest, fastest, closest = headlines(run)
    assert "just as small: two" in smallest.details
    assert fastest.row == "two"
    assert "as fast within error: one" in fastest.details
    assert "unquantized and faster: torch-fp16, 1.05 ms/token" in fastest.details
    assert "as close within error: two" in closest.details


def test_what_was_not_measured_is_said_in_place_of_a_row() -> None:
    broken = Drift(nll=[], kl=[], top1=[], non_finite=2)
    silent = variant("a", 4).model_copy(update={"as_run": broken, "speeds": []})
    _, fastest, closest = headlines(results(row("torch-fp16", 0), silent))
    assert (fastest.row, fastest.number) == (None, "Speed was not measured.")
    assert (closest.row, closest.number) == (None, "No quantized row was run with finite logits.")


def test_values_that_meet_the_best_of_their_rank_share_it() -> None:
    values = [Value(3, 2.5, 3.5), None, Value(1, 0.5, 1.5), Value(1.4, 1.2, 1.7), Value(2, 1.6, 2.4)]
    assert rank_values(values, higher_is_better=False) == [2, None, 0, 0, 1]
    assert rank_values(values, higher_is_better=True) == [0, None, 2, 1, 1]
    exact = [Value(4, 4, 4), Value(2, 2, 2), Value(4, 4, 4), Value(float("nan"), 0, 0), Value(float("inf"), 0, 0)]
    assert rank_values(exact, higher_is_better=False) == [1, 0, 1, None, 2]


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 3)), max_size=12), st.booleans())
def test_ranks_follow_the_values(pairs: list[tuple[float, float]], higher: bool) -> None:
    values = [Value(middle, middle - margin, middle + margin) for middle, margin in pairs]
    ranks = rank_values(values, higher_is_better=higher)
    best_first = sorted(zip(values, ranks, strict=True), key=lambda pair: -pair[0].value if higher else pair[0].value)
    assert [rank for _, rank in best_first] == sorted(rank for rank in ranks if rank is not None)
    assert set(ranks) == set(range(len(set(ranks))))


def test_gates_are_a_table_of_variants_by_limits() -> None:
    run = plausible.results("160m")
    table = gate_table(run)
    assert [(column.name, column.side) for column in table.columns] == [
        ("max_ppl_drift", "at most"), ("min_top1", "at least"), ("min_speedup", "at least"),
    ]  # fmt: skip
    assert [column.limit for column in table.columns] == ["", "", "1.1"]  # the same for all, or in each cell
    assert [name for name, _ in table.lines] == [
        one.name for one in run.rows if one.name in {g.variant for g in run.gates}
    ]
    cells = {
        (name, column.name): cell
        for name, line in table.lines
        for column, cell in zip(table.columns, line, strict=True)
    }
    assert sum(cell is not None for cell in cells.values()) == len(run.gates)
    for gate in run.gates:
        cell = cells[gate.variant, gate.gate]
        assert cell is not None
        assert cell.outcome == gate.outcome
        assert cell.limit == ("" if gate.gate == "min_speedup" else f"{gate.limit:g}")
        assert bool(cell.windows) == (gate.windows_needed is not None)
    assert cells["gptq-int4", "min_speedup"] is None


@pytest.mark.parametrize(("key", "text"), [("as_run", "not run"), ("speeds", "not measured")])
def test_a_gate_without_a_value_says_why(key: str, text: str) -> None:
    lacking = variant("a", 4).model_copy(update={key: None if key == "as_run" else []})
    gate = GateOutcome(
        variant="a", gate="max_kl" if key == "as_run" else "min_speedup", limit=1, value=math.nan, low=-math.inf,
        high=math.inf, outcome="undecided",
    )  # fmt: skip
    run = results(row("torch-fp16", 0), lacking).model_copy(update={"gates": [gate]})
    ((_, (cell,)),) = gate_table(run).lines
    assert cell is not None
    assert (cell.outcome, cell.value) == ("undecided", text)
