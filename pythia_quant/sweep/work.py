"""Do the jobs of one source, in a process that any engine has started: open it once, then row by row."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.convert import convert, convert_checked_by
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.bench.lambada_accuracy import measure_lambada
from pythia_quant.bench.quality import measure_drift
from pythia_quant.bench.reference import Reference, open_reference
from pythia_quant.bench.rows import Options, plan_rows, results_record, row_record
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.files import replace_file, target_lock, temporary_folder
from pythia_quant.core.hub_files import forget
from pythia_quant.core.process import CALLER, Here
from pythia_quant.core.progress import PartOf
from pythia_quant.model.place import locate
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import Recipe, parse_recipe
from pythia_quant.records.manifest import Record
from pythia_quant.records.protocols import LambadaProtocol
from pythia_quant.records.results import Lambada, Results
from pythia_quant.sweep.jobs import FLOOR, Group, Job
from pythia_quant.sweep.store import Failure, JobResult, Store
from pythia_quant.sweep.study import StudySettings
from pythia_quant.texts.lambada import load_passages

_FETCHED = "fetched"
"""The name of the file in a work folder that says that the source's weights were downloaded for it."""


class Task(Record):
    """The jobs of one source as JSON data, for another process or another machine.

    Attributes:
        store: the address of the store.
        model: the source.
        revision: its revision.
        recipe: the recipe's content.
        recipe_path: the recipe's file, by which a shipped recipe is known.
        jobs: key, row and settings of each job.
        work: the folder for what is removed at the end; None for a temporary one.
        keep: the folder for artifacts that are kept; None if they are not.
        threads: the threads of a job.
        memory: the bytes that the task may take; a model that needs more is run layer by layer.
        device: ``cpu`` or ``cuda``.
    """

    store: str
    model: str
    revision: str
    recipe: dict[str, Any]
    recipe_path: str
    jobs: list[dict[str, Any]]
    work: str | None
    keep: str | None
    threads: int
    memory: int
    device: Literal["cpu", "cuda"]


def task_of(
    group: Group, store: str, work: Path | None, keep: Path | None, settings: StudySettings, memory: int
) -> Task:
    """Return the task of a group of jobs; `work` is the folder that holds the work folders of all groups."""
    return Task(
        store=store,
        model=group.source.model,
        revision=group.source.revision,
        recipe=group.recipe.canonical(),
        recipe_path=str(group.recipe.path),
        jobs=[vars(job) for job in group.jobs],
        work=None if work is None else str(work / group.jobs[0].key),
        keep=None if keep is None else str(keep / group.source.place),
        threads=settings.threads,
        memory=memory,
        device=settings.device,
    )


def run_task(task: dict[str, Any]) -> dict[str, str]:
    """Do the jobs of one source; each result is in the store as soon as it is there.

    Args:
        task: a :class:`Task` as data.

    Returns:
        What each job came to, by its row: ``done``, or why it failed. A failure is in the store, too. The caller hears
        of each as soon as it ends.

    Raises:
        StudyError: the store cannot be written.
    """
    todo = Task.model_validate(task)
    jobs, store = [Job(**job) for job in todo.jobs], Store(todo.store)
    torch.set_num_threads(todo.threads)  # sums depend on it in the last bits, and with them what is rounded
    outcomes: dict[str, str] = {}
    with _work_folder(todo) as work:
        try:
            with _opened(todo, jobs, work) as inputs:
                reference, seconds = _reference(inputs, work)
                for job in jobs:
                    there = store.has(job.key)  # in a task that is done again, because its process died
                    outcomes[job.row] = "done" if there else _run(job, todo, inputs, reference, seconds, work, store)
                    CALLER.part(job.row, outcomes[job.row])
        except PythiaQuantError as error:
            for job in jobs:
                if job.row not in outcomes:
                    store.fail(Failure.of(job.key, error))
                    outcomes[job.row] = error.what
    return outcomes


@contextmanager
def _work_folder(task: Task) -> Iterator[Path]:
    """Give the folder for what is removed at the end; one that a killed process has left is used again."""
    if task.work is None:
        with temporary_folder() as folder:
            yield folder
        return
    folder = Path(task.work)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with target_lock(folder, wait=True):
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder)


@contextmanager
def _opened(task: Task, jobs: list[Job], work: Path) -> Iterator[Inputs]:
    """Open source and texts; weights that were downloaded for this leave the hub's cache at the end."""
    recipe = override(parse_recipe(task.recipe, {}, Path(task.recipe_path)), model=task.model, revision=task.revision)
    place = locate(task.model, task.revision, CALLER)
    names = place.weight_names()
    if place.missing_bytes(names):
        replace_file(work / _FETCHED, task.model)
    variants = [job.row for job in jobs if job.row != FLOOR]
    try:
        yield load_inputs(recipe, CALLER, convert=bool(variants), only=variants or None, place=place)
    finally:
        if (work / _FETCHED).exists():
            for name in names:
                if (place.folder / name).exists():
                    forget(place.folder / name)


def _reference(inputs: Inputs, work: Path) -> tuple[Reference, float]:
    start = time.perf_counter()
    ids = torch.from_numpy(inputs.evaluation)
    reference = open_reference(inputs.source.weights, inputs.source.sha256, ids, CALLER, work / "reference")
    return reference, time.perf_counter() - start


def _run(
    job: Job, task: Task, inputs: Inputs, reference: Reference, reference_seconds: float, work: Path, store: Store
) -> str:
    """Do one job; return ``done``, or why it failed."""
    seconds = {"reference": reference_seconds}
    try:
        with ExitStack() as cleanup:
            artifact = None
            if job.row != FLOOR:
                start = time.perf_counter()
                artifact = _convert(inputs, job.row, task, work)
                seconds["convert"] = time.perf_counter() - start
                if task.keep is None and not _is_needed_later(inputs.recipe, job.row, task):
                    cleanup.callback(shutil.rmtree, artifact.folder)
            start = time.perf_counter()
            results = _measure(inputs, artifact, reference, task, work)
            seconds["measure"] = time.perf_counter() - start
        store.write(
            JobResult(
                key=job.key,
                row=job.row,
                settings=job.settings,
                seconds=seconds,
                results=results,
                non_embedding_parameters=inputs.source.architecture.non_embedding_parameters,
            )
        )
    except PythiaQuantError as error:
        store.fail(Failure.of(job.key, error))
        return error.what
    return "done"


def _is_needed_later(recipe: Recipe, variant: str, task: Task) -> bool:
    """Say whether another job of the task takes the integers of this variant."""
    rows = [job["row"] for job in task.jobs if job["row"] != FLOOR]
    return any(settings.takes_codes_of() == variant for settings in recipe.variants(rows).values())


def _convert(inputs: Inputs, variant: str, task: Task, work: Path) -> Artifact:
    progress = PartOf(variant, CALLER)
    if task.keep is not None:
        return convert(inputs, variant, task.keep, progress=progress)
    # An artifact that is measured and removed is read back here: a fresh process would only import torch again.
    with Here(task.threads) as checker:
        return convert_checked_by(checker, inputs, variant, work / "artifacts", overwrite=False, progress=progress)


def _measure(inputs: Inputs, artifact: Artifact | None, reference: Reference, task: Task, work: Path) -> Results:
    options = Options([task.threads], task.memory, task.device)
    rows = plan_rows(inputs, [artifact] if artifact else [], options)
    row = rows[-1] if artifact else rows[0]
    subject = row.subject.model_dump(mode="json")
    measurement = measure_drift(
        subject, str(inputs.source.folder), str(reference.folder), str(work / "scratch"), task.threads, whole=row.whole
    )
    shutil.rmtree(work / "scratch", ignore_errors=True)
    record = row_record(row, inputs, measurement, work)
    results = results_record(inputs, reference.nll, [record], options)
    results = results.model_copy(update={"baseline": record.name})  # also of a row that was run layer by layer
    settings = inputs.recipe.settings.tasks.lambada
    if settings is None or not row.whole:
        return results
    passages = load_passages(settings)
    scores = measure_lambada(subject, str(passages.path), passages.examples, str(inputs.source.folder), task.threads)
    protocol = LambadaProtocol(file=passages.name, sha256=passages.sha256, examples=passages.examples)
    record = record.model_copy(update={"lambada": Lambada.model_validate(scores)})
    return results.model_copy(update={"rows": [record], "lambada": protocol})
