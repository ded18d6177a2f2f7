from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia_quant.core.errors import CorpusError
from pythia_quant.texts.windows import calibration_windows, shared, spread_windows, windows

SMALL = st.lists(st.integers(0, 2), max_size=60)


@given(SMALL, SMALL, st.integers(1, 5))
def test_shared_equals_a_plain_comparison_of_all_runs(tokens: list[int], other: list[int], length: int) -> None:
    runs = {tuple(other[i : i + length]) for i in range(len(other) - length + 1)}
    expected = np.zeros(len(tokens), dtype=bool)
    for i in range(len(tokens) - length + 1):
        if tuple(tokens[i : i + length]) in runs:
            expected[i : i + length] = True
    assert np.array_equal(shared(np.array(tokens, dtype=np.int64), np.array(other, dtype=np.int64), length), expected)


def test_windows_drop_the_incomplete_last_one() -> None:
    tokens = np.arange(11)
    assert windows(tokens, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(CorpusError, match="11 tokens, a window takes 12"):
        windows(tokens, 12)


def test_calibration_windows_skip_what_the_evaluation_text_holds() -> None:
    evaluation = np.arange(1000)
    tokens = np.concatenate([np.arange(5000, 9000), np.arange(100, 113), np.arange(20000, 20027)])
    drawn = calibration_windows(tokens, evaluation, 40, 100, seed=1)
    assert drawn.shape == (100, 40)
    assert not np.isin(drawn, evaluation).any()
    assert np.array_equal(drawn, calibration_windows(tokens, evaluation, 40, 100, seed=1))
    with pytest.raises(CorpusError, match="100 usable windows of 40 tokens, 101 are asked for"):
        calibration_windows(tokens, evaluation, 40, 101, seed=1)


def test_calibration_text_that_overlaps_the_evaluation_text_is_refused() -> None:
    tokens = np.arange(1000)
    with pytest.raises(CorpusError, match="25 of 25 calibration windows share 13 tokens in a row"):
        calibration_windows(tokens, tokens, 40, 4, seed=0)


@pytest.mark.parametrize(
    ("count", "firsts"),
    [
        (1, [10]),
        (3, [2, 10, 16]),
        (4, [2, 6, 12, 16]),
        (10, range(0, 20, 2)),
        (99, range(0, 20, 2)),
        (None, range(0, 20, 2)),
    ],
)
def test_fewer_windows_are_the_middles_of_equal_parts_of_the_text(count: int | None, firsts: Sequence[int]) -> None:
    chosen = spread_windows(np.arange(21), 2, count)
    assert chosen.tolist() == [[first, first + 1] for first in firsts]
