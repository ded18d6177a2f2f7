"""Convert one variant in a process of its own, and print how long each part took: one line of JSON.

``python benchmarks/peers/convert_ours.py RECIPE VARIANT --model MODEL``

The artifact is removed: this program is for times and memory, which ``pythia-quant convert`` does not print.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from peers.process import forget_peak, memory
from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import load_inputs
from pythia_quant.core.progress import Progress
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import Recipe, load_recipe


class _Timer(Progress):
    """Remembers when the check began."""

    checking = 0.0

    def step(self, what: str, done: int, total: int) -> None:
        del done, total
        if what == "checking":
            self.checking = time.perf_counter()


def phases(recipe: Recipe, variant: str) -> dict[str, Any]:
    """Open a recipe's source and texts and convert a variant.

    Returns:
        ``open``, ``write`` and ``check``: seconds; ``held_bytes`` before, with the libraries imported, and
        ``peak_bytes``, of this process alone: the check runs in another.
    """
    forget_peak()
    held = memory()["VmRSS"]
    started = time.perf_counter()
    inputs = load_inputs(recipe)
    opened = time.perf_counter()
    timer = _Timer()
    with tempfile.TemporaryDirectory(prefix="convert-") as folder:
        convert(inputs, variant, Path(folder), progress=timer)
        ended = time.perf_counter()
    return {
        "open": opened - started,
        "write": timer.checking - opened,
        "check": ended - timer.checking,
        "held_bytes": held,
        "peak_bytes": memory()["VmHWM"],
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("variant")
    parser.add_argument("--model", help="instead of the recipe's")
    given = parser.parse_args()
    recipe = override(load_recipe(given.recipe), model=given.model)
    settings = recipe.variants([given.variant])[given.variant]
    import_module(f"pythia_quant.formats.{settings.format}.writer")  # with all that it needs
    print(json.dumps(phases(recipe, given.variant)))


if __name__ == "__main__":
    _main()
