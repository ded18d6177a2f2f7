"""Run a study: plan it, do the jobs that the store does not have, and write the table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pythia_quant.core.errors import PythiaQuantError, StudyError
from pythia_quant.core.files import target_lock
from pythia_quant.core.machine import memory_available
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.sweep.engine import Engine, Outcome
from pythia_quant.sweep.jobs import Group, groups_of, without
from pythia_quant.sweep.sources import Identity, identify, same_weights, study_sources
from pythia_quant.sweep.store import Failure, Store
from pythia_quant.sweep.study import Study
from pythia_quant.sweep.table import lines, write_table
from pythia_quant.sweep.work import Task, task_of

STORE, WORK, ARTIFACTS = "store", "work", "artifacts"
"""Folders in that of a study."""


@dataclass(frozen=True)
class PlannedStudy:
    """What a study will do.

    Attributes:
        study: the study.
        groups: all jobs, by source.
        identities: what identifies each source.
        duplicates: the index of the source that counts, by that of a source with the same weights.
        todo: the jobs that are neither done nor known to fail, each once.
        done: the keys of the jobs whose results the store has.
        failed: the keys of the jobs whose failures the store has, and that are not tried again.
    """

    study: Study
    groups: list[Group]
    identities: list[Identity]
    duplicates: dict[int, int]
    todo: list[Group]
    done: frozenset[str]
    failed: frozenset[str]

    @property
    def jobs(self) -> int:
        """The number of lines of the table."""
        return sum(len(group.jobs) for group in self.groups)

    @property
    def repeated(self) -> int:
        """The number of jobs that are those of another line, too."""
        return self.jobs - len({job.key for group in self.groups for job in group.jobs})


@dataclass(frozen=True)
class StudyOutcome:
    """What a study came to.

    Attributes:
        table: the table's path.
        done: the number of lines with a value.
        failed: the number of lines without, in sources that exist.
        missing: the number of lines of revisions that do not exist.
    """

    table: Path
    done: int
    failed: int
    missing: int


def plan_study(study: Study, store: Store, progress: Progress = SILENT, *, retry_failed: bool = False) -> PlannedStudy:
    """Find out what a study will do; hubs are asked for lists of files, and no weights are downloaded.

    Raises:
        PythiaQuantError: the study cannot be done; see :func:`~pythia_quant.sweep.sources.study_sources` and
            :func:`~pythia_quant.sweep.jobs.groups_of`.
    """
    sources = study_sources(study)
    identities = identify(sources, progress)
    groups = groups_of(study, sources, identities)
    if all(identity.problem for identity in identities):
        first = identities[0].problem
        raise StudyError(f"none of the {len(sources)} sources can be used; the first: {sources[0].name}: {first}")
    usable = [group for group, identity in zip(groups, identities, strict=True) if not identity.problem]
    done, failed = store.finished(), frozenset() if retry_failed else store.failed()
    todo = without(usable, done | failed)
    return PlannedStudy(study, groups, identities, same_weights(sources, identities), todo, done, failed - done)


def run_study(
    planned: PlannedStudy,
    out: Path,
    store: Store,
    engine: Engine,
    needs: Sequence[int],
    tell: Callable[[int, Outcome], object],
    *,
    shared: bool,
) -> StudyOutcome:
    """Do what is left of a study and write its table; the same call after an interruption does the rest.

    Args:
        planned: the plan.
        out: the study's folder.
        store: the store.
        engine: does the tasks.
        needs: the bytes of memory that each group of `planned.todo` needs.
        tell: called with the index of a group of `planned.todo`, and what jobs of it came to: once for each job.
        shared: whether the engine's processes see `out`, so that interrupted work goes on.

    Raises:
        StudyError: the store or the folder cannot be written.
    """
    settings = planned.study.settings
    keep = out / ARTIFACTS if settings.keep == "artifacts" else None
    work = out / WORK if shared else None
    with target_lock(out / "study"):
        tasks: list[Task] = [
            task_of(group, store.url, work, keep, settings, _allowed(need))
            for group, need in zip(planned.todo, needs, strict=True)
        ]
        for index, outcome in engine.run(tasks, needs):
            if isinstance(outcome, PythiaQuantError):
                _keep_failures(planned.todo[index], outcome, store)
            tell(index, outcome)
        shutil.rmtree(out / WORK, ignore_errors=True)
        return write_outcome(planned, out, store)


def _allowed(need: int) -> int:
    """Return the memory that a task may take: with some room if it fits, so that it is always run in the same way."""
    free = memory_available()
    return int(1.2 * need) if need <= free else free


def _keep_failures(group: Group, error: PythiaQuantError, store: Store) -> None:
    """Keep the failure of the jobs of a task whose process died, but of those that it had finished."""
    for job in group.jobs:
        if not store.has(job.key):
            store.fail(Failure.of(job.key, error))


def write_outcome(planned: PlannedStudy, out: Path, store: Store) -> StudyOutcome:
    """Write the table of what the store has now."""
    table = lines(planned.groups, planned.identities, planned.duplicates, store)
    counts = [line["status"] for line in table]
    path = write_table(table, out)
    return StudyOutcome(path, counts.count("done"), counts.count("failed"), counts.count("missing"))
