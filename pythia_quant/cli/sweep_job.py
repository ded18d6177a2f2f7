"""The job of `sweep`: plan, print, run, and print what came out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pythia_quant.core.console import out_console, print_json, progress_console
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.machine import memory_available
from pythia_quant.core.progress import Steps, duration
from pythia_quant.core.text import printable
from pythia_quant.sweep.engine import Engine, LocalEngine, Outcome
from pythia_quant.sweep.findings import law_view, seeds_view
from pythia_quant.sweep.needs import Needs, measured_seconds, needs_of
from pythia_quant.sweep.page import write_page
from pythia_quant.sweep.run import STORE, PlannedStudy, StudyOutcome, plan_study, run_study
from pythia_quant.sweep.store import Store
from pythia_quant.sweep.study import Study
from pythia_quant.sweep.table import TABLE, read_table

REPORT = "report"
"""The folder of the report, in that of a study."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for; see :func:`pythia_quant.cli.sweep.run`."""

    study: Study
    out: Path
    store: str | None
    engine: str
    address: str | None
    workers: int | None
    retry_failed: bool
    dry_run: bool


def sweep_study(request: Request, *, as_json: bool) -> int:
    """Run a study, or only plan it; return the exit code."""
    study, out = request.study, request.out
    store = Store(request.store or str(out / STORE))
    engine = _engine(request)
    with Steps(1, progress_console) as steps, steps.step("looking at the sources") as step:
        planned = plan_study(study, store, step, retry_failed=request.retry_failed)
        results = {key: store.read(key) for key in _known(planned)}
        needs = needs_of(planned.todo, measured_seconds(planned.groups, results))
    plan = _plan_data(planned, needs, engine)
    if not as_json or not request.dry_run:
        _print_plan(plan)
    if request.dry_run:
        if as_json:
            print_json(plan)
        return 0
    out.mkdir(parents=True, exist_ok=True)
    store.check()
    if request.retry_failed:
        for key in planned.failed:
            store.forget(key)
    board = _Board(planned, needs)
    if isinstance(engine, LocalEngine):
        engine.watch = board.watch
    here = request.address is None
    with board:
        outcome = run_study(planned, out, store, engine, [one.memory for one in needs], board.tell, shared=here)
    return _conclude(outcome, out, as_json=as_json)


def _known(planned: PlannedStudy) -> list[str]:
    """Return the keys of a few finished jobs of each kind, from which times are taken."""
    seen = Counter[tuple[str, str]]()
    keys = []
    for group in planned.groups:
        for job in group.jobs:
            if job.key in planned.done and seen[(group.source.size, job.row)] < 3:
                seen[(group.source.size, job.row)] += 1
                keys.append(job.key)
    return keys


def _engine(request: Request) -> Engine:
    threads = request.study.settings.threads
    if request.engine == "local":
        return LocalEngine(threads, request.workers)
    from pythia_quant.sweep.ray_engine import RayEngine  # noqa: PLC0415 - an extra

    return RayEngine(threads, request.address)


def _plan_data(planned: PlannedStudy, needs: list[Needs], engine: Engine) -> dict[str, Any]:
    at_a_time = engine.at_a_time([one.memory for one in needs])
    largest = sorted((one.disk for one in needs), reverse=True)[:at_a_time]
    kept = sum(one.artifacts for one in needs) if planned.study.settings.keep == "artifacts" else 0
    identified = [(group.source.name, one) for group, one in zip(planned.groups, planned.identities, strict=True)]
    return {
        "study": planned.study.name,
        "sources": len(planned.groups),
        "jobs": planned.jobs,
        "done": sum(job.key in planned.done for group in planned.groups for job in group.jobs),
        "to_do": sum(len(group.jobs) for group in planned.todo),
        "repeated": planned.repeated,
        "failed_before": sum(job.key in planned.failed for group in planned.groups for job in group.jobs),
        "missing_revisions": [name for name, one in identified if one.missing],
        "unusable": {name: one.problem for name, one in identified if one.problem and not one.missing},
        "same_weights": {
            planned.groups[index].source.name: planned.groups[counted].source.name
            for index, counted in sorted(planned.duplicates.items())
        },
        "engine": engine.describe(),
        "at_a_time": at_a_time,
        "memory_bytes": max((one.memory for one in needs), default=0),
        "free_memory_bytes": memory_available(),
        "disk_bytes": sum(largest) + kept,
        "seconds": sum(one.seconds for one in needs) / at_a_time,
    }


def _print_plan(plan: dict[str, Any]) -> None:
    console = progress_console
    console.print(
        f"[bold]{escape(plan['study'])}[/]: {plan['sources']:,} sources, {plan['jobs']:,} jobs", soft_wrap=True
    )
    done = f"{plan['done']:,} are done already, {plan['to_do']:,} are left"
    if plan["failed_before"]:
        done += f"; {plan['failed_before']:,} failed before (--retry-failed does them again)"
    console.print(f"  {done}; on {plan['engine']}", markup=False, soft_wrap=True)
    if plan["to_do"]:
        console.print(
            f"  about {duration(plan['seconds'])}, {plan['memory_bytes'] / 1e9:.1f} GB of memory a job "
            f"({plan['free_memory_bytes'] / 1e9:.1f} GB are free), {plan['disk_bytes'] / 1e6:,.0f} MB of disk at once",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    for name, counted in list(plan["same_weights"].items())[:_FEW]:
        console.print(f"  {name} has the weights of {counted}: computed once", markup=False, soft_wrap=True)
    _rest(len(plan["same_weights"]))
    if plan["repeated"]:
        console.print(f"  {plan['repeated']:,} jobs are those of another line, too: done once", markup=False)
    if missing := plan["missing_revisions"]:
        more = f" and {len(missing) - _FEW:,} more" if len(missing) > _FEW else ""
        console.print(f"  no such revision: {', '.join(missing[:_FEW])}{more}", markup=False, soft_wrap=True)
    for name, problem in list(plan["unusable"].items())[:_FEW]:
        console.print(f"  {name}: {problem}", markup=False, soft_wrap=True)
    _rest(len(plan["unusable"]))


_FEW = 5


def _rest(count: int) -> None:
    if count > _FEW:
        progress_console.print(f"  and {count - _FEW:,} more, which the report lists", markup=False)


class _Board:
    """Shows a running study: a table on a terminal, elsewhere a line for every job that ended."""

    def __init__(self, planned: PlannedStudy, needs: list[Needs]) -> None:
        self._groups, self._seconds = planned.todo, [one.seconds for one in needs]
        self._open = [dict.fromkeys(job.row for job in group.jobs) for group in planned.todo]
        self._total = sum(map(len, self._open))
        self._expected, self._expected_done = sum(self._seconds), 0.0
        self._done, self._failed, self._start = 0, 0, monotonic()
        self._last: list[str] = []
        self._doing: dict[int, str] = {}
        console = progress_console
        self._live = Live(console=console, transient=True) if console.is_terminal and not console.quiet else None

    def __enter__(self) -> _Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def tell(self, index: int, outcome: Outcome) -> None:
        """Take the index of a group, and what jobs of it came to; an error ends all that are left."""
        group, left = self._groups[index], self._open[index]
        rows = dict.fromkeys(left, outcome.what) if isinstance(outcome, PythiaQuantError) else outcome
        for row, what in rows.items():
            left.pop(row, None)
            self._expected_done += self._seconds[index] / len(group.jobs)
            self._done += 1
            self._failed += what != "done"
            words = "done" if what == "done" else f"failed: {what}"
            digits = len(str(self._total))
            line = f"[{self._done:{digits}}/{self._total}] {group.source.name} {row} {words}"
            self._last = [*self._last[-4:], printable(line)]
            if self._live is None:
                progress_console.print(
                    f"{printable(line)}{self._left()}", markup=False, highlight=False, soft_wrap=True
                )
        if not left:
            self._doing.pop(index, None)
        if self._live:
            self._live.update(self._table())

    def watch(self, index: int, doing: str) -> None:
        """Take what a group of jobs is doing."""
        self._doing[index] = f"{self._groups[index].source.name}: {doing}"
        if self._live:
            self._live.update(self._table())

    def _left(self) -> str:
        if self._expected_done < 0.02 * self._expected or self._done == self._total:
            return ""
        elapsed = monotonic() - self._start
        return f"; {duration(elapsed * (self._expected - self._expected_done) / self._expected_done)} left"

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for line in self._last:
            table.add_row(escape(line))
        for doing in dict(self._doing).values():
            table.add_row(f"[cyan]{escape(printable(doing))}[/]")
        failed = f", [red]{self._failed:,} failed[/]" if self._failed else ""
        table.add_row(f"[bold]{self._done:,} of {self._total:,} jobs done[/]{failed}{self._left()}")
        return table


def _conclude(outcome: StudyOutcome, out: Path, *, as_json: bool) -> int:
    code = 4 if outcome.failed or outcome.missing else 0
    page = _write_report([(out.name, read_table(outcome.table))], out / REPORT)[0]
    if as_json:
        counts = {name: getattr(outcome, name) for name in ("done", "failed", "missing")}
        print_json({"table": str(outcome.table), "page": str(page), **counts})
        return code
    parts = [f"{outcome.done:,} jobs are done"]
    parts += [f"{outcome.failed:,} failed"] if outcome.failed else []
    parts += [f"{outcome.missing:,} are of revisions that do not exist"] if outcome.missing else []
    out_console.print(f"{', '.join(parts)}.", markup=False, soft_wrap=True)
    out_console.print(f"Table: {outcome.table}\nReport: {page}", markup=False, soft_wrap=True)
    return code


def report_tables(tables: list[Path], out: Path, *, as_json: bool) -> None:
    """Write the report of tables, each by its path or that of its study's folder."""
    paths = [path / TABLE if path.is_dir() else path for path in tables]
    labels = [path.absolute().parent.name if path.name == TABLE else path.name for path in paths]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in paths]
    written = _write_report([(label, read_table(path)) for label, path in zip(labels, paths, strict=True)], out)
    if as_json:
        print_json({"page": str(written[0]), "files": [str(path) for path in written]})
    else:
        out_console.print(f"Report: {written[0]}", markup=False, soft_wrap=True)


def _write_report(tables: list[tuple[str, list[dict[str, Any]]]], out: Path) -> list[Path]:
    lines = [line for _, table in tables for line in table]
    return write_page(tables, out, law=law_view(lines), seeds=seeds_view(lines))
