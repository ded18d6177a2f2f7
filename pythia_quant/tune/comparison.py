"""The chosen mix beside uniform choices, on the evaluation text, which nothing was chosen on."""

from __future__ import annotations

from typing import Literal

from pythia_quant.bench.metrics import Value
from pythia_quant.bench.statistics import differences, mean_of_windows
from pythia_quant.records.manifest import Record
from pythia_quant.tune.budget import Budget, value_of
from pythia_quant.tune.trials import Trial


class Line(Record):
    """A trial on the evaluation text.

    Attributes:
        role: what it is: the mix; the best uniform choice of at most its size; the smallest one within the budget.
        trial: the choices, as they were measured there.
        difference: its KL divergence less the mix's, mnat, with the ends of the 95 % interval; None for the mix.
    """

    role: Literal["mix", "same size", "within"]
    trial: Trial
    difference: tuple[float, float, float] | None = None

    @property
    def kl(self) -> Value:
        """The KL divergence as run, mnat."""
        return value_of(self.trial.results, "kl")


def compared(role: Literal["same size", "within"], trial: Trial, mix: Trial) -> Line:
    """Return the line of a uniform choice, with its paired difference from the mix."""
    ours, theirs = mix.results.rows[0].as_run, trial.results.rows[0].as_run
    if ours is None or theirs is None or not ours.kl or not theirs.kl:
        return Line(role=role, trial=trial)
    mean = mean_of_windows(differences(theirs.kl, ours.kl))
    low, high = mean.value - mean.margin, mean.value + mean.margin
    return Line(role=role, trial=trial, difference=(1000 * mean.value, 1000 * low, 1000 * high))


def verdicts(lines: list[Line], budget: Budget) -> list[str]:
    """Return what the lines say, a sentence each."""
    mix = lines[0]
    said = []
    if budget.drift:
        use = budget.use(mix.trial.results)
        how = "holds" if use <= 1 else "does not hold with all of its interval"
        said.append(f"On the evaluation text the budget {how}: {100 * use:.0f} % of it is used.")
    said += [_against(line, mix) for line in lines[1:]]
    if budget.drift and not any(budget.use(line.trial.results) <= 1 for line in lines[1:]):
        said.append("None of these uniform choices lies within the budget.")
    return said


def _against(line: Line, mix: Line) -> str:
    role = (
        "best uniform choice of at most this size"
        if line.role == "same size"
        else "smallest uniform choice within the budget"
    )
    if line.trial.choices == mix.trial.choices:
        return f"The choice is the {role}: mixing gains nothing here."
    size = 100 * (mix.trial.bytes / line.trial.bytes - 1)
    if line.difference is None:
        return f"The {role} gave logits that are not finite."
    value, low, high = line.difference
    drift = f"{value:+.3g} mnat [{low:+.3g}, {high:+.3g}]"
    if low > 0:
        verdict = "so the mix is better"
    elif high < 0:
        verdict = "so the mix is worse"
    else:
        verdict = "so the mix is not better than noise"
    if line.role == "within" and size < 0:
        return (
            f"The {role} is {line.trial.name}: the mix is {-size:.1f} % smaller; its drift is {drift} from the mix's."
        )
    return f"The {role} is {line.trial.name}: its drift is {drift} from the mix's, {verdict} ({size:+.1f} % in size)."
