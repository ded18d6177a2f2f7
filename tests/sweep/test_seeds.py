"""The spread between seeds, against cases computed by hand."""

import math
from typing import Any

import pytest

from pythia_quant.sweep.seeds import SeedGroup, seed_spreads, spread_of
from pythia_quant.sweep.table import SCHEMA


def line(seed: int | None, perplexity: float, drift: float, **values: Any) -> dict[str, Any]:
    """Return a line of a reference with this perplexity, and a drift in percent that is ± 0.1 %."""
    usual = {
        "model": f"EleutherAI/pythia-160m-seed{seed}" if seed else "EleutherAI/pythia-160m", "revision": "step1000",
        "family": "plain", "size": "160m", "seed": seed, "step": 1000, "variant": "gptq-int4", "status": "done",
        "perplexity": perplexity * (1 + drift / 100), "ppl_drift": drift, "ppl_drift_low": drift - 0.1,
        "ppl_drift_high": drift + 0.1, "kl": 10 * drift, "windows": 40, "context": 2048, "text_sha256": "text",
    }  # fmt: skip
    return dict.fromkeys(SCHEMA.names) | usual | values


def only(lines: list[dict[str, Any]]) -> SeedGroup:
    (group,) = seed_spreads(lines).groups
    return group


REFERENCES = {0: 20.0, 1: 20.0 * math.exp(0.02), 2: 20.0 * math.exp(0.04)}


def test_a_spread_and_its_interval_by_hand() -> None:
    # The deviation of 1, 2, 3 is 1; the quantiles of chi-square for two degrees of freedom are -2 ln(1 - p).
    spread = spread_of([1.0, 2.0, 3.0])
    assert spread.seeds == 3
    assert spread.value == pytest.approx(1.0)
    assert spread.low == pytest.approx(math.sqrt(2 / (-2 * math.log(0.025))))
    assert spread.high == pytest.approx(math.sqrt(2 / (-2 * math.log(0.975))))


def test_the_reference_and_a_variant_by_hand() -> None:
    drifts = {0: 0.6, 1: 0.7, 2: 0.8}
    group = only([line(seed, ppl, drifts[seed]) for seed, ppl in REFERENCES.items()])
    assert (group.size, group.family, group.kind, group.step, group.seeds) == ("160m", "plain", "run", 1000, [0, 1, 2])
    assert group.reference.value == pytest.approx(2.0)
    (variant,) = group.variants
    assert variant.spreads["ppl_drift"].value == pytest.approx(0.1)
    assert variant.spreads["kl"].value == pytest.approx(1.0)
    assert "top1" not in variant.spreads
    assert variant.drift is not None
    # Student's t for two degrees of freedom is 4.303, and the text's part is 0.1.
    assert variant.drift.value == pytest.approx(0.7)
    assert variant.drift.high - 0.7 == pytest.approx(math.hypot(4.3027 * 0.1 / math.sqrt(3), 0.1), rel=1e-4)
    assert variant.against_seeds == "below"  # 0.97 % is less than the low end, 1.04 %


@pytest.mark.parametrize(
    ("drift", "against"), [(0.3, "below"), (-0.3, "below"), (2.0, "undecided"), (20.0, "above"), (-20.0, "above")]
)
def test_a_drift_is_below_or_above_the_spread_or_neither(drift: float, against: str) -> None:
    (variant,) = only([line(seed, ppl, drift) for seed, ppl in REFERENCES.items()]).variants
    assert variant.against_seeds == against


def test_the_floors_row_gives_the_reference_where_it_is() -> None:
    lines = [line(seed, 99.0, 0.5) for seed in REFERENCES]
    lines += [line(seed, ppl, 0.01, variant="torch-fp16") for seed, ppl in REFERENCES.items()]
    group = only(lines)
    assert group.reference.value == pytest.approx(2.0)
    assert [variant.variant for variant in group.variants] == ["gptq-int4", "torch-fp16"]


def test_only_what_differs_in_nothing_but_the_seed_is_compared() -> None:
    lines = [line(seed, ppl, 0.5) for seed, ppl in REFERENCES.items()]
    others = [
        line(3, 50.0, 0.5, step=2000), line(4, 50.0, 0.5, text_sha256="other"), line(5, 50.0, 0.5, family="deduped"),
        line(6, 50.0, 0.5, size="70m"),
    ]  # fmt: skip
    unusable = [line(7, 50.0, 0.5, status="failed"), line(8, 50.0, 0.5, duplicate_of="x"), line(None, 50.0, 0.5)]
    study = seed_spreads(lines + others + unusable)
    assert [group.seeds for group in study.groups] == [[0, 1, 2]]
    assert study.alone == 4


def test_seeds_of_weights_and_of_data_are_not_mixed_and_share_the_suites_own() -> None:
    lines = [line(seed, 20.0 + seed, 0.5) for seed in (0, 1, 2)]
    for kind in ("weight", "data"):
        name = f"EleutherAI/pythia-160m-{kind}-seed"
        lines += [line(seed, 30.0 + seed, 0.5, model=f"{name}{seed}") for seed in (1, 2)]
    groups = {group.kind: group for group in seed_spreads(lines).groups}
    assert {kind: group.seeds for kind, group in groups.items()} == {
        kind: [0, 1, 2] for kind in ("run", "weight", "data")
    }
    assert groups["weight"].reference.value == pytest.approx(groups["data"].reference.value)
    assert groups["run"].reference.value < groups["weight"].reference.value
    assert "does not continue from its own step0" in groups["weight"].notices[0]


def test_a_drift_that_is_not_finite_is_left_out() -> None:
    lines = [line(seed, ppl, 0.5) for seed, ppl in REFERENCES.items()]
    lines += [line(seed, ppl, 0.5, variant="broken", ppl_drift=None) for seed, ppl in REFERENCES.items()]
    broken = only(lines).variants[1]
    assert (broken.drift, broken.against_seeds) == (None, None)
    assert only(lines).reference.value == pytest.approx(2.0)
