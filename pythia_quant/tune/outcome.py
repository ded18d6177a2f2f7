"""What `tune` found, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pythia_quant.tune.budget import Budget
from pythia_quant.tune.comparison import Line
from pythia_quant.tune.cost import Cost
from pythia_quant.tune.records import Sensitivity
from pythia_quant.tune.search import Found
from pythia_quant.tune.trials import Trial


@dataclass(frozen=True)
class Outcome:
    """What `tune` found.

    Attributes:
        budget: what was asked for.
        sensitivities: what tensors cost, by the name of the variant.
        found: the outcome of each variant's search, by its name.
        best: the variant with the best trial.
        lines: the best trial and uniform ones on the evaluation text; empty if no trial is within the budget.
        recipe: the recipe file that was written; None if no trial is within the budget.
        cost: what the search took.
    """

    budget: Budget
    sensitivities: dict[str, Sensitivity]
    found: dict[str, Found]
    best: str
    lines: list[Line]
    recipe: Path | None
    cost: Cost

    @property
    def trials(self) -> list[Trial]:
        """All trials of all variants on the selection text."""
        return [trial for found in self.found.values() for trial in found.trials]


def remarks(outcome: Outcome) -> list[str]:
    """Return a sentence of each variant: its choice, or the nearest one if none is within the budget."""
    said = []
    for name, found in outcome.found.items():
        near = found.best or found.nearest
        what = f"{name}, {outcome.budget.describe()}: "
        numbers = f"{near.bytes / 1e6:.3f} MB, {1000 * near.kl:.3g} mnat on the selection text"
        if found.best is not None:
            said.append(f"{what}{near.name}, {numbers}{f'; {found.remark}' if found.remark else ''}.")
            continue
        within = outcome.budget.drift and outcome.budget.use(near.results) <= 1
        but = ", which is within it there, but not with the margin for other text" if within else ""
        why = found.remark or "no choice that was measured meets the budget"
        said.append(f"{what}{why}; the nearest is {near.name}: {numbers}{but}.")
    return said


def margin_sentence(outcome: Outcome) -> str:
    """Return how much of the budget is kept for other text, and why; nothing if the size is limited."""
    best, budget = outcome.found[outcome.best].best, outcome.budget
    if best is None or not budget.drift:
        return ""
    used, elsewhere = budget.use(best.results), budget.use_elsewhere(best.results)
    if budget.margin is not None:
        return f"{100 * budget.margin:g} % of each limit was kept for other text, as --margin says."
    least = (
        f"; a selection text of one kind keeps {100 * budget.least_margin:.0f} % at least"
        if budget.least_margin
        else ""
    )
    return (
        f"On the selection text the choice uses {100 * used:.0f} % of the budget with all of its interval, and up to "
        f"{100 * elsewhere:.0f} % on text that differs as much as stretches of it differ from each other{least}. "
        "--margin keeps another share; several --selection-text, each of a kind, say it better."
    )


def cost_sentence(cost: Cost) -> str:
    """Return what the search took."""
    took = f"The search took {cost.search:.0f} s of the processor: {cost.alone:.0f} for tensors alone, "
    took += f"{cost.foreseen:.0f} to foresee choices, {cost.trials:.0f} to convert and measure them"
    if cost.ratio is None:
        return f"{took}."
    return (
        f"{took}; that is {cost.ratio:.1f} times one conversion and one measurement on the evaluation text "
        f"({cost.once:.0f} s). "
        f"The last table took {cost.table:.0f} s."
    )
