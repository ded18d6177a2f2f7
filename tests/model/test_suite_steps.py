import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia_quant.core.errors import SourceError
from pythia_quant.model import suite
from pythia_quant.model.suite import names_several, parse_revisions, printed_steps

PUBLISHED = suite.members()[0].steps


@pytest.mark.parametrize(
    ("text", "revisions"),
    [
        ("step0,step512", ["step0", "step512"]),
        ("main, step3000,main", ["main", "step3000"]),
        ("step1000..step3000", ["step1000", "step2000", "step3000"]),
        ("step256..step2000", ["step256", "step512", "step1000", "step2000"]),
        ("step1000..step23000/10", ["step1000", "step11000", "step21000"]),
        ("step2000..step2000", ["step2000"]),
        ("step0,step0..step2", ["step0", "step1", "step2"]),
        ("all/77", ["step0", "step67000"]),
    ],
)
def test_lists_and_ranges_are_of_published_steps(text: str, revisions: list[str]) -> None:
    assert names_several(text)
    assert parse_revisions(text, PUBLISHED) == revisions


def test_all_is_every_published_step() -> None:
    assert parse_revisions("all", PUBLISHED) == [f"step{step}" for step in PUBLISHED]
    assert parse_revisions("all", (5, 7)) == ["step5", "step7"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step0,step3100", "step3100 was never published\n  the nearest published revision is step3000; there are 154"),
        ("step900..step3000", "step900 was never published\n  the nearest published revision is step1000"),
        ("step0..step144000", "step144000 was never published\n  the nearest published revision is step143000"),
        ("step3000..step1000", "ends before it begins"),
        ("step0,,step1", "has an empty place"),
        ("step1000..3000", "'step1000..3000' is no range of revisions\n  give one such as step1000..step3000"),
        ("step1000..step3000/0", "is no range"),
        ("..", "is no range"),
        ("all/x", "is no range"),
    ],
)
def test_what_is_no_list_or_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(SourceError) as raised:
        parse_revisions(text, PUBLISHED)
    assert message in str(raised.value)


def test_a_model_outside_the_suite_has_lists_but_no_ranges() -> None:
    assert parse_revisions("step5,v1.0", None) == ["step5", "v1.0"]
    for text in ("all", "step1000..step3000"):
        with pytest.raises(SourceError, match="not of the suite"):
            parse_revisions(text, None)


@pytest.mark.parametrize("one", ["main", "step3000", "refs/pr/1", "a0b1c2", "allenai"])
def test_the_name_of_one_revision_is_not_several(one: str) -> None:
    assert not names_several(one)


@pytest.mark.parametrize(
    ("steps", "printed"),
    [
        ([*PUBLISHED[:12], 2000, 3000, 55000], "0–512, 1000–3000, 55000"),
        ([0, 1], "0, 1"),
        ([2000, 1000, 0], "0, 1000, 2000"),
        ([], ""),
    ],
)
def test_steps_are_printed_as_ranges_of_neighbours(steps: list[int], printed: str) -> None:
    assert printed_steps(steps, PUBLISHED) == printed


@given(st.sets(st.sampled_from(PUBLISHED), min_size=1))
def test_printed_steps_can_be_read_back(steps: set[int]) -> None:
    text = printed_steps(steps, PUBLISHED)
    ranges = ",".join("..".join(f"step{end}" for end in part.split("–")) for part in text.split(", "))
    assert parse_revisions(ranges, PUBLISHED) == [f"step{step}" for step in sorted(steps)]
