"""What the page of a study shows of the law and of the spread over seeds: numbers and sentences, computed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pythia_quant.bench.metrics import Value


@dataclass(frozen=True)
class Law:
    """A law fitted to one variant.

    Attributes:
        variant: the variant, or what the law is of.
        parameters: value and 95 % interval by name, such as ``α``.
        points: the number of points that it is fitted to.
        fit: how well it fits, in a few words, such as ``R² 0.98``.
        alternative: the same of the alternative; empty if it was not fitted.
        warning: why it should not be trusted; empty if nothing is known against it.
    """

    variant: str
    parameters: dict[str, Value]
    points: int
    fit: str
    alternative: str = ""
    warning: str = ""


@dataclass(frozen=True)
class LawView:
    """The section about the law.

    Attributes:
        answer: one or two sentences, which also stand at the top of the page.
        formula: the law, such as ``KL = k · D^β / (N^α · P^γ)``.
        meanings: what each symbol means, with its unit.
        laws: a law for each variant; they may have different parameters.
        notes: sentences on method and limits.
    """

    answer: str
    formula: str
    meanings: dict[str, str]
    laws: Sequence[Law]
    notes: Sequence[str] = ()

    @property
    def symbols(self) -> list[str]:
        """The names of all parameters, in the order of their first appearance."""
        return list(dict.fromkeys(name for law in self.laws for name in law.parameters))


@dataclass(frozen=True)
class SeedSpread:
    """The drift of one variant of one size beside the spread over seeds.

    Attributes:
        size: the size, as the plots name it.
        variant: the variant.
        step: the step at which both numbers are.
        drift: the drift with its interval.
        spread: the spread over seeds, in the same unit, with its interval.
        steps_below: the number of steps at which the drift is below the spread.
        steps: the number of steps at which both are known.
    """

    size: str
    variant: str
    step: int
    drift: Value
    spread: Value
    steps_below: int
    steps: int


@dataclass(frozen=True)
class SeedsView:
    """The section about seeds.

    Attributes:
        answer: one or two sentences, which also stand at the top of the page.
        measure: what drift and spread are, such as ``perplexity``.
        unit: their unit.
        spreads: a line for each variant and size.
        notes: sentences on method and limits.
    """

    answer: str
    measure: str
    unit: str
    spreads: Sequence[SeedSpread] = field(default_factory=tuple)
    notes: Sequence[str] = ()
