from hypothesis import given
from hypothesis import strategies as st

from pythia_quant.model.revision_faults import same_models, shared_files

HASHES = st.sampled_from("abcde")
MODELS = st.lists(st.lists(HASHES, min_size=1, max_size=3).map(tuple), min_size=1, max_size=2)
HELD = st.dictionaries(st.integers(0, 12).map("step{}".format), MODELS)


def test_a_revision_with_both_kinds_joins_those_with_one() -> None:
    held = {"step0": [("a",)], "step1": [("b",)], "step2": [("c",)], "main": [("a",), ("b",)]}
    assert same_models(held) == [("step0", "step1", "main"), ("step2",)]


def test_the_order_of_shards_counts() -> None:
    assert same_models({"step0": [("a", "b")], "step1": [("b", "a")]}) == [("step0",), ("step1",)]


def test_shards_shared_by_the_same_revisions_are_named_together() -> None:
    held = {"main": ["a", "b", "c"], "step1": ["a", "b", "d"], "step2": ["a", "e", "f"]}
    groups = [(name,) for name in held]
    assert shared_files(held, groups) == {("main", "step1", "step2"): ("a",), ("main", "step1"): ("b",)}
    assert shared_files(held, [("main", "step1", "step2")]) == {}


@given(HELD)
def test_groups_partition_the_revisions(held: dict[str, list[tuple[str, ...]]]) -> None:
    groups = same_models(held)
    assert sorted(name for group in groups for name in group) == sorted(held)
    assert all(groups)


@given(HELD)
def test_revisions_are_together_exactly_when_a_chain_of_equal_models_joins_them(
    held: dict[str, list[tuple[str, ...]]],
) -> None:
    groups = same_models(held)
    for start, first in held.items():
        reached, models = {start}, set(first)
        while more := {name for name in held if name not in reached and models.intersection(held[name])}:
            reached |= more
            models.update(model for name in more for model in held[name])
        (group,) = (group for group in groups if start in group)
        assert set(group) == reached


@given(HELD)
def test_shared_files_are_of_revisions_whose_models_differ(held: dict[str, list[tuple[str, ...]]]) -> None:
    files = {name: [file for model in models for file in model] for name, models in held.items()}
    groups = same_models(held)
    shared = shared_files(files, groups)
    for file in {file for ours in files.values() for file in ours}:
        holders = tuple(name for name, ours in files.items() if file in ours)
        apart = not any(set(holders) <= set(group) for group in groups)
        assert (file in shared.get(holders, ())) == apart
    assert sum(map(len, shared.values())) == len({file for found in shared.values() for file in found})
