"""The main job: recipe -> artifacts -> measurements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pythia_quant.artifacts.artifact import Artifact, open_artifact
from pythia_quant.artifacts.convert import artifact_folder, check_space, convert, costs
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.bench.benchmark import Options, benchmark, step_count
from pythia_quant.core.errors import ArtifactError, without_links
from pythia_quant.core.machine import memory_available
from pythia_quant.core.progress import Notices, Steps
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.table import format_of
from pythia_quant.model import suite
from pythia_quant.model.source_name import DEMO
from pythia_quant.recipe.overrides import MODEL, override, without_fetched_passages
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.records.manifest import SourceRecord
from pythia_quant.records.results import RESULTS, Results, save_results
from pythia_quant.texts.lambada import Passages, load_passages


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: artifacts, and measurements with the file they are in."""

    artifacts: list[Artifact]
    results: Results
    path: Path


@dataclass(frozen=True)
class Instead:
    """What is measured otherwise than the recipe in an artifact's manifest says.

    Attributes:
        recipe: whose evaluation, tasks, latency and gates are taken.
        model: where the source is now, a folder or a repository; its weights must be those of the manifest.
        text: to evaluate on.
        lambada: its passages; False for none.
        context: tokens in a window of evaluation.
    """

    recipe: Recipe | None = None
    model: str | None = None
    text: Path | None = None
    lambada: Path | bool | None = None
    context: int | None = None


def convert_all(recipe: Recipe, out: Path, only: list[str], overwrite: bool, console: Console) -> list[Artifact]:
    """Convert the recipe's variants, or those in `only`; everything that can be checked first is.

    Raises:
        PythiaQuantError: the variants converted before it stay, the one it concerns leaves nothing.
    """
    names = list(recipe.variants(only))
    with Steps(1 + len(names), console) as steps:
        inputs = _inputs(recipe, names, out, steps, console)
        return _convert_each(inputs, names, out, overwrite, steps)


def run(
    recipe: Recipe, out: Path, only: list[str], overwrite: bool, console: Console, options: Options | None = None
) -> Outcome:
    """Convert the recipe's variants, measure each against the fp16 baseline, and write the result file.

    Raises:
        PythiaQuantError: see :func:`convert_all`; no result file is written.
    """
    names, options = list(recipe.variants(only)), options or Options()
    recipe = without_fetched_passages(recipe, names, Notices(console))
    with Steps(1 + len(names) + step_count(recipe, len(names), options), console) as steps:
        passages = _passages(recipe, steps)
        inputs = _inputs(recipe, names, out, steps, console)
        artifacts = _convert_each(inputs, names, out, overwrite, steps)
        path = artifacts[0].folder.parent / RESULTS
        results = benchmark(inputs, artifacts, path, passages=passages, options=options, steps=steps)
    save_results(results, path)
    return Outcome(artifacts, results, path)


def bench(
    folders: list[Path],
    console: Console,
    instead: Instead | None = None,
    options: Options | None = None,
    out: Path | None = None,
) -> Outcome:
    """Measure artifacts of one source again, as the recipe in their manifest says.

    Args:
        folders: the artifacts'.
        console: where to show progress.
        instead: what is measured otherwise than that recipe says.
        options: how to measure.
        out: folder for the result file; the artifacts' own unless given.

    Raises:
        PythiaQuantError: an artifact was altered, or they are of different sources; no result file is written.
    """
    instead, options = instead or Instead(), options or Options()
    artifacts = _open_artifacts(folders, together=out is None)
    first = artifacts[0]
    recipe = _recipe_of(first, instead)
    path = (out or first.folder.parent) / RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with Steps(1 + step_count(recipe, len(artifacts), options), console) as steps:
        passages, inputs = _passages(recipe, steps), _open(recipe, steps, convert=False)
        if instead.model is None:
            inputs = at_revision(inputs, first.manifest.source, console)
        results = benchmark(inputs, artifacts, path, passages=passages, options=options, steps=steps)
    save_results(results, path)
    return Outcome(artifacts, results, path)


def _open_artifacts(folders: list[Path], *, together: bool) -> list[Artifact]:
    """Open artifacts to be measured in one table.

    Args:
        folders: the artifacts'; one that is named twice counts once.
        together: refuse those from several folders.
    """
    artifacts = [open_artifact(folder) for folder in dict.fromkeys(map(without_links, folders))]
    if together:
        _check_beside(artifacts)
    _check_names(artifacts)
    return artifacts


def _recipe_of(artifact: Artifact, instead: Instead) -> Recipe:
    """Return the recipe that an artifact is measured by."""
    recipe = artifact.recipe()
    if instead.recipe:
        update = {part: getattr(instead.recipe.settings, part) for part in ("evaluation", "tasks", "latency", "gates")}
        recipe = replace(recipe, settings=recipe.settings.model_copy(update=update), options={MODEL: "the artifact's"})
    _check_source(artifact, instead.model)
    revision = "main" if instead.model else artifact.manifest.source.commit
    return override(
        recipe,
        model=instead.model,
        revision=revision,
        text=instead.text,
        lambada=instead.lambada,
        context=instead.context,
    )


def at_revision(inputs: Inputs, recorded: SourceRecord, console: Console) -> Inputs:
    """Call the source by the revision that was converted: a commit opened it, and says nothing to a reader.

    What is known to be wrong with that revision is said again.
    """
    if recorded.commit and (notice := suite.fault_notice(recorded.model, recorded.revision)):
        console.print(notice, markup=False, soft_wrap=True)
    return replace(inputs, source=replace(inputs.source, revision=recorded.revision))


def _check_source(artifact: Artifact, model: str | None) -> None:
    source = artifact.manifest.source
    if model is None and source.commit is None and source.model != DEMO and not Path(source.model).is_dir():
        raise ArtifactError(
            f"was made from a folder that is not here, {source.model}",
            where=str(artifact.folder),
            hint="say with --model where it is",
        )


def _check_beside(artifacts: list[Artifact]) -> None:
    for other in artifacts[1:]:
        if other.folder.parent != artifacts[0].folder.parent:
            raise ArtifactError(
                f"is not beside {artifacts[0].folder}",
                where=str(other.folder),
                hint="say with --out where the results of artifacts from several folders belong",
            )


def _check_names(artifacts: list[Artifact]) -> None:
    taken: dict[str, Artifact] = {}
    for artifact in artifacts:
        other = taken.setdefault(artifact.manifest.variant, artifact)
        if other is not artifact:
            raise ArtifactError(
                f"is called {artifact.manifest.variant}, as {other.folder} is",
                where=str(artifact.folder),
                hint="measure them in two calls with different --out, and compare the result files",
            )


def _inputs(recipe: Recipe, names: list[str], out: Path, steps: Steps, console: Console) -> Inputs:
    for settings in recipe.variants(names).values():
        format_of(settings)
    inputs = _open(recipe, steps, only=names)
    for name, settings in _missing(inputs, names, out).items():
        check_space(inputs, settings, artifact_folder(out, inputs.source, name))
        _announce(name, inputs, settings, console)
    return inputs


def _missing(inputs: Inputs, names: list[str], out: Path) -> dict[str, VariantSettings]:
    """Return the variants that are to be converted: those without an artifact, and those whose integers they take."""
    variants = inputs.recipe.settings.variants

    def absent(name: str) -> bool:
        return not artifact_folder(out, inputs.source, name).exists()

    wanted = [name for name in names if absent(name)]
    taken = [codes for name in wanted if (codes := variants[name].takes_codes_of()) and absent(codes)]
    return {name: variants[name] for name in dict.fromkeys([*taken, *wanted])}


def _announce(name: str, inputs: Inputs, settings: VariantSettings, console: Console) -> None:
    """Say what a conversion will take, on a terminal; elsewhere only what should give pause."""
    memory, disk = costs(inputs, settings)
    free = memory_available()
    needs = f"about {memory / 1e9:.1f} GB of memory, and {disk / 1e9:.1f} GB of disk while it runs"
    if memory > free:
        console.print(f"[yellow]{escape(name)}[/]: needs {needs}; {free / 1e9:.1f} GB of memory are free")
    elif memory and console.is_terminal:
        console.print(f"{escape(name)}: {needs}")
    for caveat in settings.caveats():
        console.print(f"[yellow]{escape(name)}[/]: {caveat}")


def _open(recipe: Recipe, steps: Steps, *, convert: bool = True, only: list[str] | None = None) -> Inputs:
    with steps.step("opening source and texts") as progress:
        return load_inputs(recipe, progress, convert=convert, only=only)


def _passages(recipe: Recipe, steps: Steps) -> Passages | None:
    wanted = recipe.settings.tasks.lambada
    if wanted is None:
        return None
    with steps.step("opening LAMBADA") as progress:
        return load_passages(wanted, progress)


def _convert_each(inputs: Inputs, names: list[str], out: Path, overwrite: bool, steps: Steps) -> list[Artifact]:
    """Convert variants, those last that take another's integers: it must not be overwritten after them."""
    variants = inputs.recipe.variants(names)
    order = sorted(names, key=lambda name: variants[name].takes_codes_of() is not None)
    artifacts = {name: _convert(inputs, name, out, overwrite, steps) for name in order}
    return [artifacts[name] for name in names]


def _convert(inputs: Inputs, name: str, out: Path, overwrite: bool, steps: Steps) -> Artifact:
    with steps.step(f"converting {name}") as progress:
        return convert(inputs, name, out, overwrite=overwrite, progress=progress)
