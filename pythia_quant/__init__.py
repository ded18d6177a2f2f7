"""Quantize EleutherAI's Pythia models and measure what it cost.

from pythia_quant import benchmark, convert, load_inputs, load_recipe, open_artifact
from pythia_quant import Target, make_plan, prepare_publication, publish, pull
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pythia_quant.artifact import open_artifact
    from pythia_quant.bench.benchmark import benchmark
    from pythia_quant.conversion import convert
    from pythia_quant.hub.plan import make_plan
    from pythia_quant.hub.publication import Target, prepare_publication
    from pythia_quant.hub.publish import publish
    from pythia_quant.hub.pull import pull
    from pythia_quant.inputs import load_inputs
    from pythia_quant.recipe import load_recipe

__all__ = [
    "Target", "benchmark", "convert", "load_inputs", "load_recipe", "make_plan", "open_artifact", "prepare_publication",
    "publish", "pull",
]  # fmt: skip

_HOMES = {
    "benchmark": "pythia_quant.bench.benchmark",
    "convert": "pythia_quant.conversion",
    "load_inputs": "pythia_quant.inputs",
    "load_recipe": "pythia_quant.recipe",
    "open_artifact": "pythia_quant.artifact",
    "Target": "pythia_quant.hub.publication",
    "make_plan": "pythia_quant.hub.plan",
    "prepare_publication": "pythia_quant.hub.publication",
    "publish": "pythia_quant.hub.publish",
    "pull": "pythia_quant.hub.pull",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `import pythia_quant` and the command line's --help need not wait for torch.
    if name in _HOMES:
        from importlib import import_module  # noqa: PLC0415

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
