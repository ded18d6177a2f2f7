"""Drift of every window of a text: ``python benchmarks/coverage/series.py RECIPE --work FOLDER --out FILE``.

Each variant's stored weights run in fp32 arithmetic on all windows of the text, in order, so that any choice of
windows can be tried later. A window has its negative log-likelihood, KL divergence from the source, and top-1
agreement. A variant is written as soon as it is measured; a run that was stopped goes on with the next variant. The
arithmetic is written out here, independently of the package's.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.core.progress import Progress
from pythia_quant.formats.table import format_of
from pythia_quant.model.forward import Fp32Layers
from pythia_quant.model.weights import WeightReader
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.runtimes.protocol import final_states

POSITIONS_AT_ONCE = 128

OfPositions = Callable[[int, slice], Tensor]
"""Gives the logits of some positions of a window, fp32 [positions, vocabulary], until its next call."""


class _Printed(Progress):
    """Prints every fiftieth step."""

    def step(self, what: str, done: int, total: int) -> None:
        if done % 50 == 0:
            print(f"{what} {done} of {total}", flush=True)


_PROGRESS = _Printed()


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--model", help="instead of the recipe's")
    parser.add_argument("--text", type=Path, help="to evaluate on, instead of the recipe's")
    parser.add_argument("--calibration", type=Path, help="a text, instead of the recipe's")
    parser.add_argument("--work", type=Path, required=True, help="folder for artifacts and hidden states of this text")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe)
    recipe = override(recipe, model=given.model, text=given.text, calibration=given.calibration)
    every = recipe.settings.evaluation.model_copy(update={"windows": None})
    inputs = load_inputs(replace(recipe, settings=recipe.settings.model_copy(update={"evaluation": every})))
    ids = torch.from_numpy(inputs.evaluation)
    expected = _logits(inputs.source.weights, ids, given.work / "source")
    found = json.loads(given.out.read_text()) if given.out.exists() else _about(inputs)
    for name in inputs.recipe.settings.variants:
        if name in found["variants"]:
            continue
        artifact = convert(inputs, name, given.work / "artifacts", progress=_PROGRESS)
        reader = format_of(artifact.settings).open_weights(artifact.folder)
        series = _compare(expected, _logits(reader, ids, given.work / name), ids)
        found["reference_nll"] = series.pop("reference_nll")
        found["variants"][name] = series
        given.out.write_text(_lines(found))


def _about(inputs: Inputs) -> dict[str, Any]:
    windows, context = inputs.evaluation.shape
    return {
        "text": inputs.evaluation_text.sha256,
        "source": inputs.source.sha256,
        "protocol": {"name": "windows", "version": 2, "context": context, "windows": windows},
        "variants": {},
    }


def _logits(reader: WeightReader, ids: Tensor, scratch: Path) -> OfPositions:
    """Run all windows up to the head, layer by layer; `scratch` holds the states, which a stopped run goes on from."""
    scratch.mkdir(parents=True, exist_ok=True)
    model = Fp32Layers(reader)
    states = final_states(model, ids, scratch, _PROGRESS, f"{scratch.name}, layer")
    head = model.head()
    return lambda window, positions: head(states.read(slice(window, window + 1))[0][positions])


@torch.inference_mode()
def _compare(expected: OfPositions, variant: OfPositions, ids: Tensor) -> dict[str, list[float]]:
    """Return means over the positions of each window, to seven digits."""
    series: dict[str, list[float]] = {"reference_nll": [], "nll": [], "kl": [], "top1": []}
    for window, targets in enumerate(ids[:, 1:]):
        _PROGRESS.step("window", window, len(ids))
        parts = []
        for start in range(0, len(targets), POSITIONS_AT_ONCE):
            positions = slice(start, min(start + POSITIONS_AT_ONCE, len(targets)))
            right = expected(window, positions).log_softmax(-1)
            other = variant(window, positions).log_softmax(-1)
            following = targets[positions, None]
            kl = (right.exp() * (right - other)).sum(-1)
            agrees = (right.argmax(-1) == other.argmax(-1)).float()
            parts.append(
                torch.stack([-right.gather(1, following)[:, 0], -other.gather(1, following)[:, 0], kl, agrees])
            )
        means = torch.cat(parts, dim=1).mean(1, dtype=torch.float64).tolist()
        for values, mean in zip(series.values(), means, strict=True):
            values.append(float(f"{mean:.7g}"))
    return series


def _lines(found: dict[str, Any]) -> str:
    """Return JSON with a line for each series."""
    return re.sub(r"(?<=[\[,])\s+(?=-?\d)", " ", json.dumps(found, indent=1)) + "\n"


if __name__ == "__main__":
    _main()
