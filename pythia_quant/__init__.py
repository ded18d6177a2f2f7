"""Quantize EleutherAI's Pythia models and measure what it cost.

from pythia_quant import benchmark, convert, load_inputs, load_recipe, open_artifact
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pythia_quant.artifact import open_artifact
    from pythia_quant.bench.benchmark import benchmark
    from pythia_quant.conversion import convert
    from pythia_quant.inputs import load_inputs
    from pythia_quant.recipe import load_recipe

__all__ = ["benchmark", "convert", "load_inputs", "load_recipe", "open_artifact"]

_HOMES = {
    "benchmark": "pythia_quant.bench.benchmark",
    "convert": "pythia_quant.conversion",
    "load_inputs": "pythia_quant.inputs",
    "load_recipe": "pythia_quant.recipe",
    "open_artifact": "pythia_quant.artifact",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `import pythia_quant` and the command line's --help need not wait for torch.
    if name in _HOMES:
        from importlib import import_module  # noqa: PLC0415

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
