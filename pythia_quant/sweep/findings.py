"""What the laws and the seeds of a table say, as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pythia_quant.bench.metrics import METRICS, Value
from pythia_quant.core.errors import StudyError
from pythia_quant.sweep.fit import PUBLISHED, Comparison, Fit, Parameter, compare, fit_law
from pythia_quant.sweep.jobs import FLOOR
from pythia_quant.sweep.points import Point, points_of
from pythia_quant.sweep.seeds import SeedGroup, seed_spreads
from pythia_quant.sweep.views import Law, LawView, SeedSpread, SeedsView

_FORMULA = "loss increase = k · D^β / (N^α · P^γ)"
_MEANINGS = {
    "D": "training tokens; in the alternative, the largest learning rate over the one at that step",
    "N": "parameters outside embeddings",
    "P": "bits of a weight's code",
    "loss increase": "nats a token, of the weights: ln(1 + drift of the perplexity)",
}
_SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ"}
_METRICS = {"ppl_drift_weights": "the drift of the perplexity", "kl_weights": "the KL divergence"}
"""The metrics that a law is fitted to: that of the papers first, then the one with less noise."""

Lines = Sequence[Mapping[str, Any]]


def law_view(lines: Lines) -> LawView | None:
    """Return what the laws of a table say, one for each format; None if the table has no quantized rows.

    Where the points do not allow a fit, the view says why.
    """
    formats = [name for name in dict.fromkeys(line["format"] for line in lines) if name != "torch"]
    if not formats:
        return None
    laws, notes, statements = list[Law](), list[str](), list[str]()
    for name in formats:
        own = [line for line in lines if line["format"] == name]
        for metric, what in _METRICS.items():
            selected = points_of(own, metric)
            try:
                fitted = _fitted(selected.points)
            except StudyError as error:
                notes.append(f"{name}, by {what}: {error.what}" + (f"; {error.hint}" if error.hint else ""))
                continue
            laws.append(_law(f"{name}, by {what}", fitted))
            if isinstance(fitted, Comparison):
                statements.append(f"{name}, by {what}: {fitted.statement}")
            left_out = [f"{count} with {reason}" for reason, count in selected.left_out.items()]
            notes += [f"{name}: left out of the fit: {', '.join(left_out)}"] if left_out else []
            break
    answer = " ".join(statements) or ("The law of tokens was fitted." if laws else "The points do not allow a fit.")
    if laws:
        published = ", ".join(f"{_SYMBOLS.get(name, name)} {value}" for name, value in PUBLISHED.items())
        notes.append(f"arXiv 2411.17691 has for GPTQ of the Pythia suite, on other texts: {published}.")
    return LawView(answer, _FORMULA, _MEANINGS, laws, notes)


def _fitted(points: Sequence[Point]) -> Comparison | Fit:
    """Return both laws, or only that of tokens where the learning rate is not known."""
    return compare(points) if any(point.share is not None for point in points) else fit_law(points)


def _law(name: str, fitted: Comparison | Fit) -> Law:
    fit, other = fitted, None
    if isinstance(fitted, Comparison):
        fit, other = fitted.tokens, fitted.decay
        if fitted.better == "decay":
            fit, other = other, fit
    assert isinstance(fit, Fit)  # noqa: S101 - a comparison has two of them
    parameters = {"k": _value(fit.k)}
    parameters |= {_SYMBOLS[exponent]: _value(value) for exponent, value in fit.exponents.items()}
    words = {"tokens": "of tokens", "decay": "of the learning rate's decay"}
    return Law(
        f"{name}, law {words[fit.progress]}",
        parameters,
        len(fit.points),
        f"single points scatter by {100 * fit.scatter:.0f} % beyond their errors; AICc {fit.aicc:.1f}",
        f"law {words[other.progress]}: scatter {100 * other.scatter:.0f} %, AICc {other.aicc:.1f}" if other else "",
        "; ".join(fit.notes),
    )


def _value(parameter: Parameter) -> Value:
    return Value(parameter.value, parameter.low, parameter.high)


def seeds_view(lines: Lines) -> SeedsView | None:
    """Return how drift compares with the spread over seeds; None if no checkpoint has two seeds."""
    groups = [group for group in seed_spreads(lines).groups if group.kind in ("run", "")]
    if not groups:
        return None
    spreads = list[SeedSpread]()
    for size in dict.fromkeys(group.size for group in groups):
        own = sorted((group for group in groups if group.size == size), key=lambda group: group.step or 0)
        spreads += [spread for name in _variants(own) if (spread := _spread(own, name))]
    below = [f"{one.variant} ({one.size})" for one in spreads if one.steps_below == one.steps]
    answer = "No variant drifts less at every step than another seed changes the perplexity."
    if below:
        answer = f"Another seed changes the perplexity more, at every step, than {', '.join(below)}."
    notes = [note for group in groups for note in group.notices]
    notes.append("The spread is the standard deviation between seeds, with the interval for normal values.")
    unit = METRICS["ppl_drift"].unit
    return SeedsView(answer, "perplexity", unit, spreads, list(dict.fromkeys(notes)))


def _variants(groups: Sequence[SeedGroup]) -> list[str]:
    return [name for name in dict.fromkeys(one.variant for group in groups for one in group.variants) if name != FLOOR]


def _spread(groups: Sequence[SeedGroup], variant: str) -> SeedSpread | None:
    """Return a variant's drift beside the spread at the last step where both are known."""
    known = [(group, one) for group in groups for one in group.variants if one.variant == variant and one.drift]
    if not known:
        return None
    group, last = known[-1]
    reference = group.reference
    below = sum(one.against_seeds == "below" for _, one in known)
    spread = Value(reference.value, reference.low, reference.high)
    assert last.drift is not None  # noqa: S101 - those without were left out
    return SeedSpread(group.size, variant, group.step or 0, last.drift, spread, below, len(known))
