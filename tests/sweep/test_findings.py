"""What the page says of laws and seeds: the numbers of the fits, or why there are none."""

import math
from typing import Any

import pytest

from pythia_quant.model.schedule import learning_rate, tokens_seen
from pythia_quant.model.suite import SIZES
from pythia_quant.sweep.findings import law_view, seeds_view
from pythia_quant.sweep.table import SCHEMA

ALPHA, BETA, GAMMA = 0.2, 0.5, 5.0


def line(size: str, step: int, bits: int, **values: Any) -> dict[str, Any]:
    """Return a line of a table whose drift of the weights follows a law of tokens without noise."""
    shape = SIZES[size]
    tokens, parameters = tokens_seen(step), shape.non_embedding_parameters
    increase = 0.02 * tokens**BETA / parameters**ALPHA / bits**GAMMA
    drift = 100 * math.expm1(increase)
    own = {
        "model": f"EleutherAI/pythia-{size}", "revision": f"step{step}", "family": "plain", "size": size, "seed": 0,
        "step": step, "tokens": tokens, "learning_rate": learning_rate(shape, step), "parameters": shape.parameters,
        "non_embedding_parameters": parameters, "variant": f"gptq-int{bits}", "format": "gptq", "bits": float(bits),
        "status": "done", "ppl_drift_weights": drift, "ppl_drift_weights_low": 0.99 * drift,
        "ppl_drift_weights_high": 1.01 * drift, "ppl_drift": drift, "ppl_drift_low": 0.99 * drift,
        "ppl_drift_high": 1.01 * drift, "perplexity": 20 * (1 + drift / 100), "text_sha256": "0" * 64, "windows": 8,
        "context": 2048,
    }  # fmt: skip
    return dict.fromkeys(SCHEMA.names) | own | values


def table(**values: Any) -> list[dict[str, Any]]:
    return [
        line(size, step, bits, **values)
        for size in ("70m", "160m", "410m")
        for step in (2000, 8000, 32_000, 128_000)
        for bits in (3, 4)
    ]


def test_the_law_of_the_table_is_shown_with_its_intervals() -> None:
    view = law_view(table())
    assert view is not None
    (law,) = view.laws
    assert law.variant == "gptq, by the drift of the perplexity, law of tokens"
    for name, true in {"α": ALPHA, "β": BETA, "γ": GAMMA}.items():
        assert law.parameters[name].value == pytest.approx(true, rel=1e-3)
        assert law.parameters[name].low < true < law.parameters[name].high
    assert law.points == 24
    assert "law of the learning rate's decay" in law.alternative
    assert "arXiv 2411.17691" in view.notes[-1]


def test_without_learning_rates_only_the_law_of_tokens_is_fitted() -> None:
    view = law_view(table(learning_rate=None))
    assert view is not None
    assert (view.laws[0].alternative, view.answer) == ("", "The law of tokens was fitted.")


def test_points_that_allow_no_fit_say_what_is_missing() -> None:
    view = law_view(table()[:3])
    assert view is not None
    assert view.laws == []
    assert view.answer == "The points do not allow a fit."
    assert all(note.startswith("gptq, by ") for note in view.notes)
    assert law_view([line("70m", 2000, 4, format="torch")]) is None


def test_a_drift_is_beside_the_spread_over_seeds() -> None:
    assert seeds_view(table()) is None
    seeds = [
        line("70m", 2000, bits, seed=seed, model=f"EleutherAI/pythia-70m-seed{seed}", perplexity=20 + seed)
        for seed in (1, 2, 3)
        for bits in (3, 4)
    ]
    view = seeds_view(seeds)
    assert view is not None
    assert all(one.spread.low < one.spread.value < one.spread.high for one in view.spreads)
    below = [one.variant for one in view.spreads if one.steps_below == one.steps]
    assert all(name in view.answer for name in below)
