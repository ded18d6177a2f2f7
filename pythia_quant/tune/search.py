"""Find the choices of one variant: solve, convert, measure, correct what does not add up, and solve again."""

from __future__ import annotations

from dataclasses import dataclass

from pythia_quant.tune.budget import Budget, value_of
from pythia_quant.tune.choices import Choices, Option, uniform_choices
from pythia_quant.tune.knapsack import Item, Items, solve, total
from pythia_quant.tune.trials import Trial, Trials

MOST_TRIALS = 7
"""The most conversions of a search, without those of uniform choices."""
CLOSE = 1.04
"""A search ends where the sums of what fits and of what does not are as close as this."""


@dataclass(frozen=True)
class Found:
    """The outcome of a search of one variant.

    Attributes:
        best: the best trial within the budget; None if none is.
        nearest: the trial that comes nearest to the budget, or that it is best by.
        uniform: the best uniform choices that are at most as large as the best trial, or the nearest.
        within: the smallest uniform choices that are within the budget, of those that were measured.
        remark: what the user should know of the budget; may be empty.
    """

    best: Trial | None
    nearest: Trial
    uniform: Trial | None
    within: Trial | None
    remark: str


def search_drift(trials: Trials, budget: Budget) -> Found:
    """Search the least cost whose drift lies within the budget with all of its interval.

    What tensors cost alone is a sum S; the drift of all together is about a + b S, where `a` is what the runtime adds
    and `b` says how errors add up. Every trial gives both anew, and says whether S may be larger.
    """
    items = trials.items
    limit, low, high = budget.first_limit(), 0.0, float("inf")
    best: Trial | None = None
    remark = ""
    least = total(items, _least_load(items)).load
    seen: list[Choices] = []
    for _ in range(MOST_TRIALS):
        choices = solve(items, limit) or _least_load(items)
        if choices in seen:
            break
        seen.append(choices)
        trial = trials.make(choices)
        use = budget.use(trial.results)
        if use <= 1:
            best = trial if best is None or _cost(items, trial) < _cost(items, best) else best
            low = max(low, trial.alone)
            if _cost(items, trial) <= _least_cost(items):
                remark = f"every choice meets the budget; the smallest uses {100 * use:.0f} % of it"
                break
        else:
            high = min(high, trial.alone)
            if trial.alone <= least * (1 + 1e-9):
                remark = "no choice meets the budget"
                break
        if high / max(low, 1e-12) < CLOSE:
            break
        limit = _next_limit(trial, use, budget, low, high)
    nearest = best or min(trials.made, key=lambda trial: budget.use(trial.results))
    uniform, within = _uniform(trials, budget, nearest)
    # A uniform choice is a choice, too: where it is within the budget and smaller than the mix, it is the outcome.
    fitting = [trial for trial in trials.made if budget.use(trial.results) <= 1]
    best = min(fitting, key=lambda trial: (_cost(items, trial), trial.kl), default=None)
    return Found(best, nearest, uniform, within, remark)


def _next_limit(trial: Trial, use: float, budget: Budget, low: float, high: float) -> float:
    """Return the sum at which the drift will use all of the budget, between the sums that were tried."""
    floor = 0.0
    if "max_kl" in budget.drift:  # what the runtime adds does not depend on the choices
        value = value_of(trial.results, "kl")
        added = max(trial.kl - trial.of_weights, 0.0) * 1000
        floor = min(added * (value.high / max(value.value, 1e-12)) / budget.drift["max_kl"], 0.9)
    # A hundredth less than all of it, because one more trial costs more than a hundredth of the size is worth.
    limit = trial.alone * max(0.99 - floor, 0.01) / max(use - floor, 1e-9)
    limit = min(max(limit, trial.alone / 8), trial.alone * 8)
    if low < limit < high:
        return limit
    return (max(low, high / 4) * high) ** 0.5 if high < float("inf") else max(low, 1e-9) * 1.5


def search_size(trials: Trials, budget: Budget) -> Found:
    """Search the least drift whose files are within a size; what files hold beside tensors is learnt from the first."""
    items = {
        key: {option: Item(item.load, item.cost) for option, item in options.items()}
        for key, options in trials.items.items()
    }
    size, beside = budget.size or 0, 0.0
    best: Trial | None = None
    seen: list[Choices] = []
    for _ in range(MOST_TRIALS):
        choices = solve(items, size - beside) or _least_load(items)
        if choices in seen:
            break
        seen.append(choices)
        trial = trials.make(choices)
        beside = trial.bytes - total(items, choices).load
        if trial.bytes <= size and (best is None or trial.alone < best.alone):
            best = trial
    nearest = best or min(trials.made, key=lambda trial: trial.bytes)
    remark = ""
    if best is None:
        remark = "no choice meets the budget"
    elif best.alone <= total(trials.items, _least_load(trials.items)).load * (1 + 1e-9):
        remark = f"every choice meets the budget; the finest takes {best.bytes / 1e6:.3g} MB"
    uniform, within = _uniform(trials, budget, nearest)
    return Found(best, nearest, uniform, within, remark)


def _uniform(trials: Trials, budget: Budget, chosen: Trial) -> tuple[Trial | None, Trial | None]:
    """Measure the uniform choices to compare with: the best of at most the size, and the smallest within the budget.

    Both are foreseen by the sums, with what the chosen trial says of how they add up, and then measured.
    """
    items = trials.items
    every = uniform_choices({key: list(options) for key, options in items.items()})
    sums = [(total(items, choices), choices) for choices in every]
    cost = _cost(items, chosen)
    same_size = [(item.load, choices) for item, choices in sums if item.cost <= cost * (1 + 1e-9)]
    uniform = trials.make(min(same_size, key=lambda pair: pair[0])[1]) if same_size else None
    if budget.size is not None:
        return uniform, uniform
    if uniform is not None and budget.use(uniform.results) <= 1:
        return uniform, uniform
    scale = chosen.alone / max(budget.use(chosen.results), 1e-9)
    fitting = sorted(((item.cost, choices) for item, choices in sums if item.load <= scale), key=lambda pair: pair[0])
    for _, choices in fitting[:3]:
        trial = trials.make(choices)
        if budget.use(trial.results) <= 1:
            return uniform, trial
    return uniform, None


def _least_load(items: Items) -> dict[str, Option]:
    return {
        key: min(options, key=lambda option, options=options: (options[option].load, options[option].cost))  # type: ignore[misc]
        for key, options in items.items()
    }


def _least_cost(items: Items) -> float:
    return sum(min(item.cost for item in options.values()) for options in items.values()) * (1 + 1e-9)


def _cost(items: Items, trial: Trial) -> float:
    return total(items, trial.choices).cost
