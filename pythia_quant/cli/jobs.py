"""The jobs of the commands run, convert and bench: from a recipe to artifacts to measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from pythia_quant.artifacts.artifact import Artifact, open_artifact
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.artifacts.needs import describe
from pythia_quant.artifacts.plan import caveats, needs
from pythia_quant.core import process
from pythia_quant.core.errors import ArtifactError, without_links
from pythia_quant.core.progress import Notices, Steps
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.packages import missing_of_variants, refuse_missing
from pythia_quant.library.conversions import convert_each, expected_conversions, open_inputs
from pythia_quant.library.main_job import Outcome, convert_and_measure, main_job_steps, open_passages
from pythia_quant.model import suite
from pythia_quant.model.source_name import DEMO
from pythia_quant.recipe.methods import recipe_of_model
from pythia_quant.recipe.overrides import MODEL, override, without_fetched_passages
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.records.manifest import SourceRecord
from pythia_quant.records.results import RESULTS, save_results

if TYPE_CHECKING:
    from pythia_quant.artifacts.foreign import ForeignArtifact
    from pythia_quant.bench.rows import Options

# ruff: noqa: PLC0415 - an artifact that is there is found without torch, which takes seconds to import


@dataclass(frozen=True)
class Changes:
    """Changes to the recipe in an artifact's manifest, before the artifact is measured by it. None changes nothing.

    Attributes:
        recipe: another recipe, whose evaluation, tasks, latency and gates replace those of the manifest's.
        model: the folder or repository of the source; its weights must be those that the manifest records.
        text: the text to evaluate on.
        lambada: the file of LAMBADA's passages; False leaves LAMBADA out.
        context: the tokens in a window of evaluation.
    """

    recipe: Recipe | None = None
    model: str | None = None
    text: Path | None = None
    lambada: Path | bool | None = None
    context: int | None = None


def convert_all(
    recipe: Recipe, out: Path, only: list[str], overwrite: bool, console: Console, later: int = 0
) -> list[Artifact]:
    """Convert the recipe's variants, or those in `only`, after all checks that are possible before a conversion.

    `later` conversions of this kind follow in the same command, see :class:`~pythia_quant.core.progress.Steps`.

    Raises:
        PythiaQuantError: a conversion failed and left nothing; the artifacts of variants before it stay.
    """
    names = list(recipe.variants(only))
    with Steps(1 + len(names), console, later) as steps:
        inputs = open_inputs(recipe, names, out, steps, partial(_announce, console))
        steps.expect(expected_conversions(inputs, names, out, overwrite=overwrite))
        return convert_each(inputs, names, out, steps, overwrite=overwrite)


def run(
    recipe: Recipe,
    out: Path,
    only: list[str],
    overwrite: bool,
    console: Console,
    options: Options | None = None,
    later: int = 0,
) -> Outcome:
    """Convert the recipe's variants, measure each against the fp16 baseline, and write the result file.

    `later` runs follow in the same command, see :class:`~pythia_quant.core.progress.Steps`.

    Raises:
        PythiaQuantError: see :func:`convert_all`; no result file is written.
    """
    from pythia_quant.bench.rows import Options

    names, options = list(recipe.variants(only)), options or Options()
    recipe = without_fetched_passages(recipe, names, Notices(console))
    with Steps(main_job_steps(recipe, names, options), console, later) as steps:
        announce = partial(_announce, console)
        return convert_and_measure(recipe, names, out, steps, options, overwrite=overwrite, announce=announce)


def bench(
    folders: list[Path],
    console: Console,
    changes: Changes | None = None,
    options: Options | None = None,
    out: Path | None = None,
    later: int = 0,
) -> Outcome:
    """Measure artifacts of one source by the recipe in the first one's manifest.

    Args:
        folders: the folders of the artifacts.
        console: the console that shows progress.
        changes: changes to that recipe.
        options: how to measure.
        out: the folder for the result file; by default the one that the artifacts' folders are in.
        later: how many calls of this kind follow in the same command, see :class:`~pythia_quant.core.progress.Steps`.

    Raises:
        PythiaQuantError: an artifact was altered, or the artifacts have different sources; no result file is written.
    """
    from pythia_quant.bench.benchmark import benchmark, benchmark_steps
    from pythia_quant.bench.rows import Options

    changes, options = changes or Changes(), options or Options()
    artifacts = _open_artifacts(folders, together=out is None)
    first = artifacts[0]
    recipe = _recipe_of(first, changes)
    path = (out or first.folder.parent) / RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with Steps(1 + benchmark_steps(recipe, len(artifacts), options), console, later) as steps:
        passages = open_passages(recipe, steps)
        with steps.step("opening source and texts") as step:
            inputs = load_inputs(recipe, step, convert=False)
        if changes.model is None:
            inputs = at_revision(inputs, first.manifest.source, console)
        results = benchmark(inputs, artifacts, path, passages=passages, options=options, steps=steps)
    save_results(results, path)
    return Outcome(artifacts, results, path)


def audit(
    theirs: Sequence[tuple[str, Path]],
    folders: list[Path],
    source: str,
    revision: str | None,
    console: Console,
    changes: Changes,
    options: Options,
    out: Path,
) -> Outcome:
    """Measure what others made of a source, and artifacts of ours beside it, by one recipe.

    The recipe is the one in `changes`, that of the first artifact of ours, or the one that measures the source.

    Args:
        theirs: what others made: the name that the user gave, and the folder or file on this machine.
        folders: the folders of artifacts of ours.
        source: the model that all of them were made from.
        revision: its branch, tag or commit.
        console: the console that shows progress.
        changes: changes to the recipe; a model in them is not used.
        options: how to measure.
        out: the folder for the result file.

    Raises:
        PythiaQuantError: an artifact is damaged, or was not made from this source; no result file is written.
    """
    from pythia_quant.artifacts.foreign import open_foreign
    from pythia_quant.bench.benchmark import benchmark, benchmark_steps

    artifacts = _open_artifacts(folders, together=False)
    base = changes.recipe or (artifacts[0].recipe() if artifacts else recipe_of_model(source))
    recipe = override(
        base, model=source, revision=revision or "main", text=changes.text, lambada=changes.lambada,
        context=changes.context,
    )  # fmt: skip
    path = out / RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with Steps(2 + benchmark_steps(recipe, len(artifacts) + len(theirs), options), console) as steps:
        passages = open_passages(recipe, steps)
        with steps.step("opening source and texts") as step:
            inputs = load_inputs(recipe, step, convert=False)
        with steps.step("checking what others made") as step, process.Worker() as worker:
            foreign = []
            for index, (place, path_of_theirs) in enumerate(theirs):
                step.step(place, index, len(theirs))
                foreign.append(open_foreign(place, path_of_theirs, inputs.source, inputs.evaluation.tolist(), worker))
        _check_rows(artifacts, foreign)
        results = benchmark(inputs, artifacts, path, foreign=foreign, passages=passages, options=options, steps=steps)
    save_results(results, path)
    return Outcome(artifacts, results, path)


def _check_rows(artifacts: list[Artifact], foreign: list[ForeignArtifact]) -> None:
    """Refuse rows of one name: what others made is called by its folder or file."""
    places = {artifact.manifest.variant: str(artifact.folder) for artifact in artifacts}
    for one in foreign:
        other = places.setdefault(one.name, one.place)
        if other != one.place:
            raise ArtifactError(
                f"is called {one.name}, as {other} is",
                where=one.place,
                hint="measure them in two calls with different --out, and compare the result files",
            )


def _open_artifacts(folders: list[Path], *, together: bool) -> list[Artifact]:
    """Open the artifacts for one table.

    Args:
        folders: the folders of the artifacts; an artifact that is named twice counts once.
        together: whether to refuse artifacts that do not stand beside each other.
    """
    artifacts = [open_artifact(folder) for folder in dict.fromkeys(map(without_links, folders))]
    if together:
        _check_beside(artifacts)
    _check_names(artifacts)
    refuse_missing(missing_of_variants({one.manifest.variant: one.settings for one in artifacts}))
    return artifacts


def _recipe_of(artifact: Artifact, changes: Changes) -> Recipe:
    """Return the recipe that an artifact is measured by."""
    recipe = artifact.recipe()
    if changes.recipe:
        update = {part: getattr(changes.recipe.settings, part) for part in ("evaluation", "tasks", "latency", "gates")}
        recipe = replace(recipe, settings=recipe.settings.model_copy(update=update), options={MODEL: "the artifact's"})
    _check_source(artifact, changes.model)
    revision = "main" if changes.model else artifact.manifest.source.commit
    return override(
        recipe,
        model=changes.model,
        revision=revision,
        text=changes.text,
        lambada=changes.lambada,
        context=changes.context,
    )


def at_revision(inputs: Inputs, recorded: SourceRecord, console: Console) -> Inputs:
    """Call the source by the revision that was converted: it was opened by a commit, which tells people little.

    If the suite knows a fault of that revision, the console shows it again.
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
    by_variant: dict[str, Artifact] = {}
    for artifact in artifacts:
        other = by_variant.setdefault(artifact.manifest.variant, artifact)
        if other is not artifact:
            raise ArtifactError(
                f"is called {artifact.manifest.variant}, as {other.folder} is",
                where=str(artifact.folder),
                hint="measure them in two calls with different --out, and compare the result files",
            )


def _announce(console: Console, name: str, inputs: Inputs, settings: VariantSettings) -> None:
    """Print what a conversion will take, and its caveats."""
    console.print(f"{name} takes {describe(needs(inputs, settings))}", markup=False, highlight=False, soft_wrap=True)
    for caveat in caveats(inputs, settings):
        console.print(f"[yellow]{escape(name)}[/]: {caveat}")
