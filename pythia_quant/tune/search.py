"""Find the choices of one variant: foresee, convert, measure, correct what was foreseen, until the budget is met."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from pythia_quant.tune.budget import Budget
from pythia_quant.tune.choices import Choices
from pythia_quant.tune.cost import Meter
from pythia_quant.tune.foresight import ALIKE, Foresight
from pythia_quant.tune.trials import Trial, Trials

MOST_TRIALS = 6
"""The most choices that are measured on the selection text, while none is within the budget."""
REFINED = 3
"""The most of them where one is."""
ENOUGH = 0.88
"""A search ends with a choice that uses so much of the budget: a trial costs more than the rest is worth."""
AIM = 0.98
"""What a choice is to use of the budget: a little less than all, because the next trial tells by some percent."""


@dataclass(frozen=True)
class Found:
    """The outcome of a search of one variant.

    Attributes:
        trials: all that were measured on the selection text, in the order of the search.
        pilots: those that were measured on the search text.
        best: the best trial within the budget; None if none is.
        nearest: the trial that comes nearest to the budget, or that it is best by.
        uniform: the uniform choices with the least drift that are at most as large as the best trial, or the nearest.
        within: the smallest uniform choices within the budget, as far as they were foreseen; None if none is.
        remark: what the user should know of the budget; may be empty.
        converting: the processor's time of conversions that are in no trial, in seconds.
    """

    trials: list[Trial]
    pilots: list[Trial]
    best: Trial | None
    nearest: Trial
    uniform: Choices | None
    within: Choices | None
    remark: str
    converting: list[float] = field(default_factory=list)


def search_drift(trials: Trials, foresight: Foresight, budget: Budget) -> Found:
    """Search the fewest bytes whose drift is expected to lie within the budget on other text, too.

    A pilot on the few windows of the search text says what the runtime adds to the drift of the weights, and how much
    of the limits that takes. Trials on the selection text then say how much more or less it is there.
    """
    target, made = budget.first_limit(), list[Trial]()
    pilot = trials.make(foresight.smallest(target), trials.search, weights=not foresight.exact)
    of_weights = foresight.divergence(pilot.choices) if foresight.exact else pilot.of_weights
    added = max(pilot.kl - of_weights, 0.0)
    if not foresight.exact:
        foresight.observe(pilot.choices, of_weights)
    target = _next_target(pilot, foresight, budget, budget.use(pilot.results), added)
    for _ in range(MOST_TRIALS):
        choices = foresight.smallest(target)
        if any(choices == trial.choices for trial in made):
            if _fitting(made, budget):
                break
            target *= 0.9
            continue
        trial = trials.make(choices, trials.selection)
        made.append(trial)
        use = budget.use_elsewhere(trial.results)
        if _is_last(foresight, choices, use) or (len(made) >= REFINED and _fitting(made, budget)):
            break
        if not foresight.exact:
            foresight.observe(choices, max(trial.kl - added, 1e-9))
        target = _between(made, foresight, budget, _next_target(trial, foresight, budget, use, added))
    finest = foresight.finest()
    if not _fitting(made, budget) and not any(trial.choices == finest for trial in made):
        made.append(trials.make(finest, trials.selection))
    return _drift_found(made, [pilot], foresight, budget, target)


def _fitting(made: list[Trial], budget: Budget) -> list[Trial]:
    return [trial for trial in made if budget.use_elsewhere(trial.results) <= 1]


def _is_last(foresight: Foresight, choices: Choices, use: float) -> bool:
    """Return whether no other choice need be tried after one that uses so much of the budget."""
    if use > 1:
        return choices == foresight.finest()
    return use >= ENOUGH or _is_smallest(foresight, choices)


def _next_target(trial: Trial, foresight: Foresight, budget: Budget, use: float, added: float) -> float:
    """Return the divergence of the weights, on the search text, at which the drift will use all of the budget.

    Args:
        trial: choices that were measured.
        foresight: what their weights cost.
        budget: the limits.
        use: what the trial uses of them.
        added: the divergence that the runtime adds, whatever the choices are, nats a token.
    """
    floor = 0.0
    if "max_kl" in budget.drift and trial.kl > 0:
        floor = min(use * added / trial.kl, 0.9 * use, 0.9)
    here = max(foresight.divergence(trial.choices), 1e-9)
    return here * min(max(max(AIM - floor, 0.02) / max(use - floor, 1e-9), 1 / 16), 16.0)


def _between(made: list[Trial], foresight: Foresight, budget: Budget, target: float) -> float:
    """Return a target that lies between what was within the budget and what was not; limits may not follow the sums."""
    fitting = _fitting(made, budget)
    low = max((foresight.divergence(trial.choices) for trial in fitting), default=0.0)
    high = min((foresight.divergence(trial.choices) for trial in made if trial not in fitting), default=math.inf)
    if low < target < high or low >= high:
        return target
    return math.sqrt(max(low, high / 16) * high) if high < math.inf else target


def _is_smallest(foresight: Foresight, choices: Choices) -> bool:
    least = sum(min(item.cost for item in options.values()) for options in foresight.items.values())
    return foresight.cost(choices) <= least * (1 + 1e-9)


def _drift_found(made: list[Trial], pilots: list[Trial], foresight: Foresight, budget: Budget, target: float) -> Found:
    uses = {trial.name: budget.use_elsewhere(trial.results) for trial in made}
    fitting = _fitting(made, budget)
    least = min((trial.bytes for trial in fitting), default=0)
    best = min((trial for trial in fitting if trial.bytes <= least * ALIKE), key=lambda trial: trial.kl, default=None)
    nearest = best or min(made, key=lambda trial: uses[trial.name])
    remark = ""
    if best is not None and _is_smallest(foresight, best.choices):
        remark = f"every choice meets the budget; the smallest uses {100 * budget.use(best.results):.0f} % of it"
    elif best is None and any(trial.choices == foresight.finest() for trial in made):
        remark = "no choice meets the budget"
    limit = foresight.divergence(best.choices) / max(uses[best.name], 1e-9) if best else target
    uniform = foresight.best_uniform(foresight.cost(nearest.choices) * ALIKE)
    return Found(made, pilots, best, nearest, uniform, foresight.smallest_uniform(limit), remark)


def search_size(trials: Trials, foresight: Foresight, budget: Budget) -> Found:
    """Search the least drift whose files are within a size; what files hold beside tensors is learnt by converting."""
    size, beside = budget.size or 0, 0.0
    converted: list[tuple[Choices, int]] = []
    meter = Meter(trials.worker)
    times = [meter.seconds()]
    for _ in range(MOST_TRIALS):
        choices = foresight.least_drift(size - beside) or _smallest(foresight)
        if any(choices == each for each, _ in converted):
            break
        converted.append((choices, trials.convert(choices).manifest.bytes_on_disk))
        times.append(meter.seconds())
        # The graph differs a little with the choices: the most that was seen is kept free, so that this ends.
        beside = max(beside, converted[-1][1] - foresight.cost(choices))
    fitting = [each for each, taken in converted if taken <= size]
    nearest = min(converted, key=lambda pair: pair[1])[0]
    trial = trials.make(min(fitting, key=foresight.divergence, default=nearest), trials.selection)
    remark = ""
    if not fitting:
        remark = "no choice meets the budget"
    elif trial.choices == foresight.finest():
        remark = f"every choice meets the budget; the finest takes {trial.bytes / 1e6:.3g} MB"
    uniform = foresight.best_uniform(foresight.cost(trial.choices) * ALIKE)
    best = trial if fitting else None
    return Found([trial], [], best, trial, uniform, None, remark, [end - start for start, end in pairwise(times)])


def _smallest(foresight: Foresight) -> Choices:
    return {
        key: min(options, key=lambda option, options=options: (options[option].cost, options[option].load))  # type: ignore[misc]
        for key, options in foresight.items.items()
    }
