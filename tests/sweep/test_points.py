"""The points of a table: increases and errors by hand, shares of the learning rate, and the lines left out."""

import math
from typing import Any

import pytest

from pythia_quant.core.errors import ArgumentError
from pythia_quant.model.schedule import learning_rate
from pythia_quant.model.suite import SIZES
from pythia_quant.sweep.points import points_of
from pythia_quant.sweep.table import SCHEMA


def line(**values: Any) -> dict[str, Any]:
    """Return a line as :func:`lines` in table.py makes it: a drift of 5 ± 1 %, and 40 ± 10 mnat."""
    step = values.get("step", 71_000)
    usual = {
        "model": "EleutherAI/pythia-160m", "revision": f"step{step}", "family": "plain", "size": "160m", "seed": 0,
        "step": step, "tokens": step * 2**21, "learning_rate": learning_rate(SIZES["160m"], step),
        "non_embedding_parameters": 85_056_000, "variant": "gptq-int4", "bits": 4.0, "status": "done", "windows": 40,
        "ppl_drift_weights": 5.0, "ppl_drift_weights_low": 4.0, "ppl_drift_weights_high": 6.0,
        "kl": 40.0, "kl_low": 30.0, "kl_high": 50.0,
    }  # fmt: skip
    return dict.fromkeys(SCHEMA.names) | usual | values


def test_a_drift_in_percent_is_an_increase_in_nats() -> None:
    (point,) = points_of([line()]).points
    assert point.increase == pytest.approx(math.log(1.05))
    # Student's t for 8 batches is 2.365; the error of a logarithm is that of the ratio over the ratio.
    assert point.error == pytest.approx(0.01 / 2.365 / 1.05)
    assert (point.tokens, point.parameters, point.bits) == (71_000 * 2**21, 85_056_000, 4.0)
    assert (point.run, point.source) == ("EleutherAI/pythia-160m", "EleutherAI/pythia-160m@step71000")


def test_a_divergence_in_mnat_is_an_increase_in_nats() -> None:
    (point,) = points_of([line(windows=4)], "kl").points
    assert (point.increase, point.error) == pytest.approx((0.04, 0.01 / 3.182))


def test_other_metrics_are_refused() -> None:
    with pytest.raises(ArgumentError, match="'top1' is no increase of the loss"):
        points_of([], "top1")


@pytest.mark.parametrize(
    ("step", "share"),
    [(1_000, None), (1_430, 1.0), (71_000, (1 + math.cos(math.pi * 69_570 / 143_000)) / 2), (143_000, 0.1)],
)
def test_the_share_of_the_learning_rate_begins_after_warm_up(step: int, share: float | None) -> None:
    (point,) = points_of([line(step=step)]).points
    assert point.share == (None if share is None else pytest.approx(share))


def test_revisions_that_are_models_of_their_own_are_one_run() -> None:
    models = [line(model=f"/tmp/{step}", step=step, size="tiny", family="mine") for step in (2_000, 3_000)]
    first, second = points_of(models).points
    assert first.run == second.run == "tiny mine 0"
    assert first.share is None


def test_lines_that_are_no_points_are_counted_by_their_reason() -> None:
    lines = [
        line(),
        line(status="failed"),
        line(status="open"),
        line(duplicate_of="EleutherAI/pythia-160m@step143000"),
        line(variant="torch-fp16", bits=16.0),
        line(step=0),
        line(tokens=None),
        line(non_embedding_parameters=None),
        line(ppl_drift_weights=None),
        line(windows=1),
    ]
    selection = points_of(lines)
    assert len(selection.points) == 1
    assert selection.left_out == {
        "the status is failed, not done": 1,
        "the status is open, not done": 1,
        "the weights are those of another line": 1,
        "torch-fp16 is not quantized": 1,
        "no training tokens, parameters or bits are known": 3,
        "there is no finite ppl_drift_weights with an interval": 2,
    }
