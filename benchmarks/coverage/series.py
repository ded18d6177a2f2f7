"""Drift of every window of a text: ``python benchmarks/coverage/series.py RECIPE --work FOLDER --out FILE``.

Of each variant of the recipe its weights, as stored, in fp32 arithmetic: per window the negative log-likelihood, the KL
divergence from the source and the top-1 agreement. All of the text's windows, in its order, so that any choice of them
can be tried later. A variant is written as soon as it is measured; a run that was stopped goes on with the next.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pythia_quant.bench.quality import in_layers, measure_drifts
from pythia_quant.bench.reference import reference
from pythia_quant.conversion import convert
from pythia_quant.formats import format_of, load
from pythia_quant.inputs import Inputs, load_inputs
from pythia_quant.layerwise import Fp32Layers
from pythia_quant.overriding import override
from pythia_quant.recipe import load_recipe


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--model", help="instead of the recipe's")
    parser.add_argument("--text", type=Path, help="to evaluate on, instead of the recipe's")
    parser.add_argument("--calibration", type=Path, help="a text, instead of the recipe's")
    parser.add_argument("--work", type=Path, required=True, help="folder for artifacts and hidden states")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe)
    recipe = override(recipe, model=given.model, text=given.text, calibration=given.calibration)
    every = recipe.settings.evaluation.model_copy(update={"windows": None})
    inputs = load_inputs(replace(recipe, settings=recipe.settings.model_copy(update={"evaluation": every})))
    ids = torch.from_numpy(inputs.evaluation)
    expected = reference(inputs.source.weights, inputs.source.sha256, ids, _tell, given.work / "references")
    found = json.loads(given.out.read_text()) if given.out.exists() else _about(inputs, expected.nll)
    for name in inputs.recipe.settings.variants:
        if name in found["variants"]:
            continue
        artifact = convert(inputs, name, given.work / "artifacts", report=_tell)
        weights = Fp32Layers(load(format_of(artifact.settings).read)(artifact.folder))
        logits = in_layers(weights, ids, given.work / "states" / artifact.folder.relative_to(given.work), name)
        drift = measure_drifts(expected, {name: logits})[name]
        found["variants"][name] = {key: _rounded(getattr(drift, key)) for key in ("nll", "kl", "top1")}
        given.out.write_text(_lines(found))


def _about(inputs: Inputs, nll: list[float]) -> dict[str, Any]:
    windows, context = inputs.evaluation.shape
    return {
        "text": inputs.evaluation_text.sha256,
        "source": inputs.source.sha256,
        "protocol": {"name": "windows", "version": 2, "context": context, "windows": windows},
        "variants": {},
        "reference_nll": _rounded(nll),
    }


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.7g}") for value in values]


def _lines(found: dict[str, Any]) -> str:
    """Return JSON with a line for each series."""
    return json.dumps(found, indent=1).replace(",\n    ", ", ")


def _tell(what: str, done: int, total: int) -> None:
    if done % 50 == 0:
        print(f"{what} {done} of {total}", flush=True)


if __name__ == "__main__":
    _main()
