"""The learning rates of training, against values computed by hand."""

import math

import pytest

from pythia_quant.model.schedule import learning_rate, tokens_seen
from pythia_quant.model.suite import SIZES


@pytest.mark.parametrize(
    ("size", "step", "rate"),
    [
        ("160m", 0, 0),  # so that step1 has the weights of step0
        ("160m", 143, 6e-5),  # a tenth of the warm-up
        ("160m", 1430, 6e-4),  # its end
        ("160m", 1430 + 143_000 // 2, 3e-4),  # cos 90° = 0
        ("70m", 1430 + 143_000 // 4, 1e-3 * (2 + math.sqrt(2)) / 4),  # cos 45°
        ("1b", 1430 + 143_000 * 3 // 4, 2.5e-4 * (2 - math.sqrt(2)) / 4),  # cos 135°
        ("12b", 115_140, 1.2e-5),
        ("14m", 143_000, 1e-4),
    ],
)
def test_the_rate_follows_warm_up_and_cosine(size: str, step: int, rate: float) -> None:
    assert learning_rate(SIZES[size], step) == pytest.approx(rate, rel=1e-9)


def test_the_rate_is_above_its_smallest_until_the_cosine_reaches_it() -> None:
    """180° · 113,708 / 143,000 = 143.13°, and the arccosine of -0.8 is 143.1301°."""
    assert 1.2e-5 < learning_rate(SIZES["12b"], 115_138) < 1.2001e-5


def test_a_step_is_two_mebi_tokens() -> None:
    assert tokens_seen(1) == 2**21
    assert tokens_seen(143_000) == 299_892_736_000  # as the model cards say
