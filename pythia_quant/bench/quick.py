"""A quick look: few windows, one round, one length, and no gates, for a first impression of the numbers."""

from __future__ import annotations

from dataclasses import replace

from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench.speed_plan import latency_protocol
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.texts.lambada import Passages
from pythia_quant.texts.windows import Tokens, spread_windows

WINDOWS = 8
"""The windows of a quick look; the intervals of fewer are of little use."""
PASSAGES = 200
"""The passages of LAMBADA."""

QUICK_NOTE = (
    f"Quick look: few windows, at most {PASSAGES} passages and one round. The intervals are wide, that of speed misses "
    "how processes differ, and gates are not judged."
)


def quick_look(inputs: Inputs, passages: Passages | None) -> tuple[Inputs, Passages | None]:
    """Return what a quick look measures: windows spread evenly over those of the recipe, and the first passages."""
    recipe = quick_recipe(inputs.recipe, inputs.source.architecture.context)
    if passages:
        passages = replace(passages, examples=min(PASSAGES, passages.examples))
    return replace(inputs, recipe=recipe, evaluation=quick_windows(inputs.evaluation)), passages


def quick_recipe(recipe: Recipe, context: int | None = None) -> Recipe:
    """Return the recipe with few windows, at most one round, and no gates, which few windows seldom decide.

    If the model's `context` is given, speed is measured at one length of prompt and one of context.
    """
    settings, latency = recipe.settings, recipe.settings.latency
    update: dict[str, object] = {"rounds": min(1, latency.rounds)}
    if context is not None:
        lengths = latency_protocol(latency, context)
        update |= {"prompts": [lengths.prompt], "contexts": [lengths.context]}
    windows = min(WINDOWS, settings.evaluation.windows or WINDOWS)
    parts = {
        "evaluation": settings.evaluation.model_copy(update={"windows": windows}),
        "latency": latency.model_copy(update=update),
        "gates": {},
    }
    return replace(recipe, settings=settings.model_copy(update=parts))


def quick_windows(evaluation: Tokens) -> Tokens:
    """Return some of the windows, int64 [windows, context], spread evenly over them."""
    return spread_windows(evaluation.reshape(-1), evaluation.shape[1], WINDOWS)
