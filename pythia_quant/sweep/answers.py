"""The answers of a study in sentences: what it covers, how drift changes over training, where it meets the floor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pythia_quant.bench.metrics import Value
from pythia_quant.report.numbers import plural
from pythia_quant.sweep.jobs import FLOOR
from pythia_quant.sweep.series import Change, Line, Panel, Table, counts
from pythia_quant.sweep.views import LawView, SeedsView

_MOST_NAMED = 6


@dataclass(frozen=True)
class Answer:
    """One answer: what was asked, a sentence, and details, each with the variant that it is of, if there is one."""

    title: str
    text: str
    details: Sequence[tuple[str, str]] = ()


def factor_text(factor: Value | None) -> str:
    """Return a factor with its interval."""
    if factor is None:
        return "–"
    return f"×\u00a0{_three(factor.value)} ({_three(factor.low)}–{_three(factor.high)})"


def _three(value: float) -> str:
    """Return a positive number with about three digits."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 99.95 else f"{value:.3g}" if value >= 0.001 else f"{value:.1e}"


def scope(tables: Sequence[Table]) -> str:
    """Return a sentence about what was measured: variants, sizes, seeds and steps."""
    lines = [line for _, table in tables for line in table]
    seen = [line for line in lines if counts(line)] or lines
    variants = dict.fromkeys(line["variant"] for line in seen if line["variant"] != FLOOR)
    sizes = dict.fromkeys(line["size"] for line in seen if line["size"])
    seeds = {line["seed"] for line in seen if line["seed"] is not None}
    parts = [plural(len(variants), "variant"), f"{plural(len(sizes), 'size')}{_listed(sizes)}"]
    if len(seeds) > 1:
        parts.append(f"{plural(len(seeds), 'seed')}")
    text = f"{parts[0]} of {' with '.join(parts[1:])}"
    steps = sorted({line["step"] for line in seen if line["step"] is not None})
    if len(steps) > 1:
        text += f", at {len(steps)} training steps from {steps[0]:,} to {steps[-1]:,}"
    elif steps:
        text += f", at training step {steps[0]:,}"
    return f"{text}. {_progress(lines)}"


def _listed(names: Iterable[str]) -> str:
    named = list(names)
    return f" ({', '.join(named)})" if 0 < len(named) <= _MOST_NAMED else ""


def _progress(lines: Sequence[Line]) -> str:
    states = Counter(line["status"] for line in lines)
    repeated = sum(line["duplicate_of"] is not None for line in lines)
    words = {
        "failed": states["failed"], "are still open": states["open"], "are of missing revisions": states["missing"],
        "repeat the weights of another revision": repeated,
    }  # fmt: skip
    rest = ", ".join(f"{count:,} {word}" for word, count in words.items() if count)
    done = f"{states['done']:,} of {plural(len(lines), 'job')} {'is' if len(lines) == 1 else 'are'} done"
    return f"{done}{rest and f'; {rest}'}."


def answers(found: Sequence[Change], law: LawView | None, seeds: SeedsView | None) -> list[Answer]:
    """Return the answers to the questions that the table can answer."""
    own = [change for change in found if not change.curve.is_floor]
    given = [_over_training(own), _at_the_floor(found), seeds and Answer("Beside another seed", seeds.answer),
             law and Answer("The law", law.answer)]  # fmt: skip
    return [answer for answer in given if answer]


def _over_training(own: Sequence[Change]) -> Answer | None:
    known = [change for change in own if change.factor is not None]
    if not known:
        return None
    grows = sum(change.factor.low > 1 for change in known if change.factor)
    falls = sum(change.factor.high < 1 for change in known if change.factor)
    rest = len(known) - grows - falls
    words = {"grows": grows, "falls": falls, "stays the same within error": rest}
    (verb, most) = max(words.items(), key=lambda word: word[1])
    every = "every case" if most == len(known) else f"{most} of {len(known)} cases"
    others = [f"{name} in {count}" for name, count in words.items() if count and name != verb]
    text = f"{_between(known)}, the KL divergence {verb} in {every}{''.join(f', {other}' for other in others)}."
    return Answer("From first to last", text, _by_variant(known))


def _between(known: Sequence[Change]) -> str:
    ends = {(change.first.step, change.last.step) for change in known}
    if len(ends) > 1:
        return "From the first to the last step of each"
    ((first, last),) = ends
    return f"From step {first:,}{' (untrained)' if first == 0 else ''} to step {last:,}"


def _by_variant(known: Sequence[Change]) -> list[tuple[str, str]]:
    """Return the factors of each variant, or their range over many sizes."""
    details = []
    for variant in dict.fromkeys(change.curve.variant for change in known):
        own = [change for change in known if change.curve.variant == variant]
        if len(own) <= 3:
            text = ", ".join(f"{factor_text(one.factor)} at {one.panel.name}" for one in own)
        else:
            ordered = sorted(own, key=lambda one: one.factor.value if one.factor else 0.0)
            text = " to ".join(f"{factor_text(one.factor)} at {one.panel.name}" for one in (ordered[0], ordered[-1]))
        details.append((variant, text))
    return details


def _at_the_floor(found: Sequence[Change]) -> Answer | None:
    own = [change for change in found if not change.curve.is_floor and change.steps_at_floor is not None]
    if not own:
        return None
    title = "Beside the fp16 floor"
    stay = [change for change in own if change.steps_at_floor == change.steps]
    meet = [change for change in own if change.steps_at_floor and change not in stay]
    details = [
        (one.curve.variant, f"{'at or below' if one in stay else 'partly at'} the floor at {one.panel.name}: "
         f"{one.steps_at_floor} of {plural(one.steps, 'step')}")
        for one in (*stay, *meet)
    ]  # fmt: skip
    if not details:
        return Answer(title, "No variant comes down to the fp16 floor at any step.", _closest(own))
    names = list(dict.fromkeys(one.curve.variant for one in stay))
    sizes = len({one.panel.name for one in own})
    whole = [name for name in names if sum(one.curve.variant == name for one in stay) == sizes]
    if whole:
        text = f"Never above the fp16 floor: {', '.join(whole)}."
    elif names:
        text = f"Never above the fp16 floor at some sizes, but not at all: {', '.join(names)}."
    else:
        text = "No variant stays at the fp16 floor at every step."
    return Answer(title, text, details)


def _closest(own: Sequence[Change]) -> list[tuple[str, str]]:
    """Return the variant nearest to the floor at the last step of each panel."""
    details = []
    for panel in {id(change.panel): change.panel for change in own}.values():
        ratios = [
            (change.last.value.value / floor.value.value, change.curve.variant)
            for change in own
            if change.panel is panel
            and panel.floor
            and (floor := panel.floor.at(change.last.step))
            and floor.value.value > 0
        ]
        if ratios:
            ratio, variant = min(ratios)
            details.append((variant, f"is closest at {panel.name}: {_three(ratio)} times the floor at its last step"))
    return details[:_MOST_NAMED]


def how_to_read(found: Sequence[Panel]) -> str:
    """Return how to read the plots."""
    several = any(len(curve.runs) > 1 for panel in found for curve in panel.curves)
    text = (
        "Thick lines are means over training runs of several seeds, thin lines the runs. Bands are 95 % intervals of "
        "these means, from the scatter of the runs (Student's t: two runs alone give a very wide one); where there is "
        "one run, from the windows of the text."
        if several
        else "Bands are 95 % intervals from the windows of the text."
    )
    if any(panel.floor for panel in found):
        text += f" Dashed: {FLOOR}, the source run in fp16, which is the floor of every drift."
    if any(panel.spread for panel in found):
        text += (
            " The grey band with dotted lines: how much the perplexity of the fp32 reference differs between seeds, as "
            "a standard deviation in percent, with its 95 % interval. A drift below the band is less than another seed "
            "would have made; a drift in it may be."
        )
    if any(panel.rates for panel in found):
        text += " Below: the learning rate by the published schedule at the measured steps."
    return text + " All plots of a metric have the same axes."


def axes_remarks(*, tokens: bool, zero: bool, linear: float) -> str:
    """Return what is particular to the axes of a metric.

    Args:
        tokens: whether the horizontal axis shows tokens.
        zero: whether step 0 is drawn.
        linear: the limit of the linear part of the vertical axis; 0 if there is none.
    """
    text = "" if tokens else " The tokens of some lines are not known, so the horizontal axis shows steps."
    if zero:
        text += " Step 0, the untrained model, has no place on a logarithmic axis: it stands left of the break."
    if linear:
        text += f" Some values are not positive: the vertical axis is linear from −{linear:g} to {linear:g}."
    return text
