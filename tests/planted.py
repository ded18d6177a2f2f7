"""A tiny model in which two tensors have more to say than all others, and a recipe of it."""

from __future__ import annotations

from pathlib import Path

from tiny import TINY, random_weights, write_checkpoint, write_texts

from pythia_quant.recipe.recipe import Recipe, load_recipe

PLANTED = ("gpt_neox.layers.1.mlp.dense_4h_to_h.weight", "gpt_neox.layers.0.attention.dense.weight")

RECIPE = """\
schema: 1
source: {{model: {model}}}
calibration: {{text: {{file: calibration.txt}}, windows: 40}}
evaluation: {{text: {{file: evaluation.txt}}, windows: 8}}
variants:
  onnx-int8: {{format: onnx, block_size: 32}}
  gguf-q4: {{format: gguf, sweeps: 0, correction: none, damping: 0.01}}
  bnb-nf4: {{format: bnb}}
"""


def planted_recipe(folder: Path) -> Recipe:
    """Write a recipe of a tiny model in which two tensors have more to say than all others."""
    write_texts(folder)
    weights = random_weights(TINY)
    for name in PLANTED:
        # In each block a weight that decides the scale, so that the others are rounded coarsely.
        weights[name][:, ::32] = 4.0
    model = write_checkpoint(folder / "planted", weights=weights)
    path = folder / "planted.yaml"
    path.write_text(RECIPE.format(model=model))
    return load_recipe(path)
