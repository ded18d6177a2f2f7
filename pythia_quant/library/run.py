"""Open an artifact, run a recipe, and measure artifacts: the main jobs of Python programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pythia_quant.artifacts.artifact import Artifact, open_artifact
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.core.machine import cores
from pythia_quant.library.main_job import convert_and_measure, main_job_steps
from pythia_quant.library.progress import Listener, notices, open_steps
from pythia_quant.library.results import Results, with_values
from pythia_quant.model.source_name import SCHEME
from pythia_quant.recipe.overrides import override, without_fetched_passages
from pythia_quant.recipe.recipe import Recipe, load_recipe
from pythia_quant.recipe.set_keys import set_keys
from pythia_quant.records.results import save_results
from pythia_quant.texts.lambada import Passages

if TYPE_CHECKING:
    from pythia_quant.bench.rows import Options

# ruff: noqa: PLC0415 - `load` answers at once: what needs torch or the hub's client is imported when it is needed


def load(artifact: str | Path, *, progress: Listener = True) -> Artifact:
    """Open an artifact by its folder, or by ``hf://owner/name@revision``, whose files are downloaded once.

    Args:
        artifact: the folder or the name.
        progress: who is told of a download; see :data:`~pythia_quant.library.progress.Listener`.

    Raises:
        ArtifactError: there is no artifact, or this version cannot read it.
        HubError: the repository has no artifact of ours, or a file differs from the manifest.
    """
    if str(artifact).startswith(SCHEME):
        from pythia_quant.artifacts.pull import pull

        with open_steps(1, progress) as steps, steps.step(f"opening {artifact}") as step:
            return open_artifact(pull(str(artifact), step))
    folder = Path(artifact).expanduser()
    inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    if inside and not (folder / MANIFEST).exists():
        raise ArtifactError("holds several artifacts", where=str(folder), hint=f"give one of: {', '.join(inside)}")
    return open_artifact(folder)


def run(
    recipe: str | Path | Recipe,
    out: str | Path = "artifacts",
    *,
    only: str | Sequence[str] | None = None,
    model: str | Path | None = None,
    revision: str | None = None,
    text: str | Path | None = None,
    calibration: str | Path | None = None,
    lambada: str | Path | bool | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    quick: bool = False,
    threads: int | Sequence[int] | None = None,
    memory: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    progress: Listener = True,
) -> Results:
    """Convert the variants of a recipe, measure each beside the source, and write ``results.json`` beside them.

    Artifacts that are there already are verified and not made again. Gates that fail raise nothing; see
    ``Results.gates``.

    Args:
        recipe: a recipe file, the name of a recipe that ships with the package, such as ``demo``, or an opened recipe.
        out: the folder for artifacts; they go to ``out/<source>/<revision>/<variant>``.
        only: the variants to convert and measure; all by default.
        model: another model than the recipe's: a folder, a repository or its address.
        revision: a branch, tag or commit of the repository, such as ``step3000``.
        text: the file of the text to evaluate on.
        calibration: the file of the text to calibrate on.
        lambada: the file of LAMBADA's passages; False leaves LAMBADA out.
        settings: values that replace the recipe's, by their keys: ``{"evaluation.windows": 8}``.
        overwrite: replace artifacts that are there.
        quick: measure few windows and one round, for a first look; the result file is ``quick.json``.
        threads: the threads of every runtime; speed is measured with each number.
        memory: the bytes that one measurement may take; a model that needs more is run layer by layer.
        device: where all but ONNX runs.
        progress: who is told of progress; see :data:`~pythia_quant.library.progress.Listener`.

    Raises:
        PythiaQuantError: a setting cannot be used, or a conversion or a measurement failed. No result file is written;
            the artifacts that were made before stay.
    """
    changes = {"text": text, "calibration": calibration, "lambada": lambada}
    chosen = override(
        recipe if isinstance(recipe, Recipe) else load_recipe(recipe),
        model=None if model is None else str(model),
        revision=revision,
        **{key: Path(file) if isinstance(file, str) else file for key, file in changes.items()},  # type: ignore[arg-type]
    )
    numbers = [threads] if isinstance(threads, int) else list(dict.fromkeys(threads or [cores()]))
    from pythia_quant.bench.rows import Options

    options, chosen = Options(numbers, memory, device, quick=quick), set_keys(chosen, settings or {})
    names = list(chosen.variants([only] if isinstance(only, str) else list(only or ())))
    chosen = without_fetched_passages(chosen, names, notices(progress))
    place = Path(out).expanduser()
    with open_steps(main_job_steps(chosen, names, options), progress) as steps:
        return with_values(convert_and_measure(chosen, names, place, steps, options, overwrite=overwrite).results)


def benchmark(
    inputs: Inputs,
    artifacts: Sequence[Artifact],
    path: str | Path,
    *,
    passages: Passages | None = None,
    options: Options | None = None,
    progress: Listener = False,
) -> Results:
    """Measure artifacts beside their source in fp16, bf16 and fp32, and write the result file.

    The same call after an interruption goes on with what was measured.

    Args:
        inputs: the recipe with its source and evaluation windows.
        artifacts: artifacts of that source.
        path: the result file. An earlier one stays beside it, under a name that has its time.
        passages: the passages of LAMBADA; None to leave LAMBADA out.
        options: how to measure.
        progress: who is told of progress; see :data:`~pythia_quant.library.progress.Listener`.

    Raises:
        ArtifactError: an artifact was altered, or another process writes `path`.
        BenchmarkError: an artifact has another source, or a measuring process died.
        StorageError: the result file cannot be written.
    """
    from pythia_quant.bench.benchmark import benchmark as measure
    from pythia_quant.bench.benchmark import benchmark_steps
    from pythia_quant.bench.rows import Options

    path, options = Path(path).expanduser(), options or Options()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_steps(benchmark_steps(inputs.recipe, len(artifacts), options), progress) as steps:
        results = measure(inputs, list(artifacts), path, passages=passages, options=options, steps=steps)
    save_results(results, path)
    return with_values(results)
