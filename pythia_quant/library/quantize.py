"""Quantize a model by the name of a method, and write the recipe that was used beside the artifact."""

from __future__ import annotations

from pathlib import Path

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.core.errors import storing
from pythia_quant.core.files import replace_file
from pythia_quant.library.conversions import convert_each, expected_conversions, open_inputs
from pythia_quant.library.progress import Listener, open_steps
from pythia_quant.recipe.methods import DEFAULT, recipe_of_method, write_recipe
from pythia_quant.recipe.recipe import Recipe


def quantize(
    model: str | Path,
    method: str = DEFAULT,
    out: str | Path = "artifacts",
    *,
    bits: int | None = None,
    group_size: int | None = None,
    revision: str | None = None,
    text: str | Path | None = None,
    calibration: str | Path | None = None,
    overwrite: bool = False,
    progress: Listener = True,
) -> Artifact:
    """Quantize a model and return the artifact, or the one that is there already if it is the same.

    The recipe that was used is written beside the artifact, as ``<variant>.yaml``.

    Args:
        model: ``demo``, a name of the suite such as ``pythia-160m``, a folder, a hub repository or its address.
        method: ``bnb-nf4``, ``bnb-fp4``, ``gptq-int4``, ``onnx-int8``, ``onnx-int8-dynamic``, ``onnx-int4``, …; see
            :data:`pythia_quant.recipe.methods.METHODS`.
        out: the folder for artifacts; this one goes to ``out/<source>/<revision>/<variant>``.
        bits: the bits of the integers, in place of the method's.
        group_size: the weights that share a scale, in place of the method's.
        revision: a branch, tag or commit of the repository, such as ``step3000``.
        text: the file of the text to evaluate on. The artifact is checked on it, and ``bench`` measures on it.
        calibration: the file of the text to calibrate on. By default, both texts are those of the recipe that ships for
            the model; for other models, they are parts of the text that every Python carries.
        overwrite: replace the artifact if it is there.
        progress: who is told of progress; see :data:`~pythia_quant.library.progress.Listener`.

    Raises:
        RecipeError: there is no such method, or bits or groups do not fit it or the model.
        PythiaQuantError: the conversion failed; the target folder is as it was before.
    """
    recipe, name = recipe_of_method(
        str(model),
        method,
        bits=bits,
        group_size=group_size,
        revision=revision,
        text=None if text is None else Path(text),
        calibration=None if calibration is None else Path(calibration),
    )
    with open_steps(2, progress) as steps:
        place = Path(out).expanduser()
        inputs = open_inputs(recipe, [name], place, steps)
        steps.expect(expected_conversions(inputs, [name], place, overwrite=overwrite))
        (artifact,) = convert_each(inputs, [name], place, steps, overwrite=overwrite)
    save_recipe(recipe, artifact)
    return artifact


def save_recipe(recipe: Recipe, artifact: Artifact) -> Path:
    """Write the recipe that an artifact was made by beside the artifact, and return the file's path.

    Raises:
        StorageError: the file cannot be written.
    """
    path = artifact.folder.parent / f"{artifact.manifest.variant}.yaml"
    with storing(path):
        replace_file(path, write_recipe(recipe))
    return path
