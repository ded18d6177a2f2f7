"""pythia-quant bench: measure artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pythia_quant.cli.arguments import check_out, parse_out
from pythia_quant.cli.completion import complete_recipe
from pythia_quant.cli.gates import exit_by_gates
from pythia_quant.cli.options import (
    Artifacts,
    AsJson,
    Context,
    Device,
    DeviceName,
    LambadaFile,
    Memory,
    NoLambada,
    Quiet,
    TextFile,
    Threads,
    Verbose,
    is_from_a_hub,
    local_folders,
    measuring_options,
    passages,
    show_progress,
)
from pythia_quant.cli.outcomes import print_results_json
from pythia_quant.core.console import EVERY_VARIABLE, GATE_CODES, example, out_console, output_width, progress_console
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.recipe.recipe import load_recipe

if TYPE_CHECKING:
    from pythia_quant.bench.rows import Options
    from pythia_quant.cli.jobs import Changes
    from pythia_quant.library.main_job import Outcome
    from pythia_quant.records.results import Results

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()

_Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="Take evaluation, tasks, latency and gates from this recipe.",
        show_default="the one in the artifact's manifest; for what others made, the one of the source's size",
        autocompletion=complete_recipe,
    ),
]
_SourceModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="ID|FOLDER",
        help="Open the source here. It must have the weights that were converted.",
        show_default="where it was",
    ),
]
_Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="MODEL",
        help="Measure what others made, such as a GPTQ checkpoint of somebody else, against this model: a hub "
        "repository, a folder or builtin:demo.",
    ),
]
_Revision = Annotated[
    str | None,
    typer.Option("--revision", metavar="REVISION", help="The branch, tag or commit of --source.", show_default="main"),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        parser=parse_out,
        help="The folder for results.json.",
        show_default="the one that the artifacts are in; for those from a hub or of others, the current one",
    ),
]
_Again = Annotated[
    bool,
    typer.Option("--again", help="Measure drift and LAMBADA of the source again, also if the cache has them."),
]


@commands.command(
    epilog=example(
        "pythia-quant bench artifacts",
        "pythia-quant bench artifacts/demo/builtin/onnx-int8 --threads 1 --threads 2 --recipe mine.yaml",
        "pythia-quant bench hf://someone/pythia-160m-gptq --source EleutherAI/pythia-160m",
        codes=GATE_CODES,
        variables=EVERY_VARIABLE,
    )
)
def bench(
    artifacts: Artifacts,
    text: TextFile = None,
    lambada: LambadaFile = None,
    no_lambada: NoLambada = False,
    context: Context = None,
    recipe: _Recipe = None,
    threads: Threads = None,
    memory: Memory = None,
    device: Device = DeviceName.CPU,
    model: _SourceModel = None,
    source: _Source = None,
    revision: _Revision = None,
    out: _Out = None,
    again: _Again = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure artifacts against their source. results.json is written beside them; an earlier one is kept.

    Of a folder that is no artifact, every artifact below it is measured, and those that stand together have one table.
    With --source, what others made of a model is measured, too: a checkpoint, or the file of a graph.
    """
    show_progress(quiet=quiet, verbose=verbose)
    if out is not None:
        check_out(out)
    other, task = load_recipe(recipe) if recipe else None, passages(lambada, no_lambada)
    options = replace(measuring_options(threads, memory, device), again=again)
    from pythia_quant.cli.jobs import Changes
    from pythia_quant.cli.others import measure_with_others, of_others

    changes = Changes(other, model, text, task, context)
    theirs = of_others(artifacts, source, revision, model)
    ours = [artifact for artifact in artifacts if artifact not in theirs]
    if theirs:
        folders = [folder for group in _groups(local_folders(ours), together=True) for folder in group]
        outcomes = [measure_with_others(theirs, folders, str(source), revision, changes, options, out or Path())]
        results = _print(outcomes, as_json=as_json)
    else:
        results = _print(_bench_ours(ours, changes, options, out), as_json=as_json)
    exit_by_gates(*results)


def _bench_ours(artifacts: list[str], changes: Changes, options: Options, out: Path | None) -> Iterator[Outcome]:
    """Measure artifacts of ours, those of one table together."""
    from pythia_quant.cli.jobs import bench as bench_artifacts

    if out is None and any(map(is_from_a_hub, artifacts)):
        out = Path()
    groups = _groups(local_folders(artifacts), together=out is not None)
    for number, folders in enumerate(groups):
        yield bench_artifacts(folders, progress_console, changes, options, out, len(groups) - number - 1)


def _print(outcomes: Iterable[Outcome], *, as_json: bool) -> list[Results]:
    """Print each outcome as soon as it is there, or all as JSON."""
    from pythia_quant.report.terminal import print_results

    results = []
    for number, outcome in enumerate(outcomes):
        results.append(outcome.results)
        if not as_json:
            print_results(outcome.results, out_console, width=output_width(), explain=number == 0)
            out_console.print(f"\nWritten to {outcome.path}", markup=False, soft_wrap=True)
    if as_json:
        print_results_json(results)
    return results


def _groups(folders: list[Path], *, together: bool) -> list[list[Path]]:
    """Return the folders of the artifacts to measure, those of one table together.

    Args:
        folders: artifacts, and folders with artifacts below them.
        together: whether all have one table. Otherwise, unless every artifact is named, each folder in which artifacts
            stand has one.
    """
    from pythia_quant.artifacts.artifact import artifacts_below

    parts = [[folder] if (folder / MANIFEST).exists() else artifacts_below(folder) for folder in folders]
    if not folders:
        return []
    every = list(dict.fromkeys(folder for part in parts for folder in part))
    if together or every == folders:
        return [every]
    return [list(group) for _, group in groupby(sorted(every), key=lambda folder: folder.parent)]
