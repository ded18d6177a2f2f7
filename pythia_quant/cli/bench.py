"""pythia-quant bench: measure artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.cli.arguments import check_out, parse_out
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
from pythia_quant.core.console import example, out_console, output_width, progress_console
from pythia_quant.core.text import printable_json
from pythia_quant.recipe.recipe import load_recipe

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()


@commands.command(
    epilog=example(
        "pythia-quant bench artifacts/demo/builtin/*/",
        "pythia-quant bench artifacts/demo/builtin/onnx-int8 --threads 1 --threads 2 --recipe mine.yaml",
    )
)
def bench(
    artifacts: Artifacts,
    text: TextFile = None,
    lambada: LambadaFile = None,
    no_lambada: NoLambada = False,
    context: Context = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            help="Take evaluation, tasks, latency and gates from it, not from the artifacts.",
        ),
    ] = None,
    threads: Threads = None,
    memory: Memory = None,
    device: Device = DeviceName.CPU,
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID|FOLDER", help="Where the source is now, if elsewhere.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=parse_out,
            help="Folder for results.json. [default: the artifacts'; of those from a hub, the current one]",
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure artifacts against their source. results.json is written beside them; an earlier one is kept.

    Exits with 3 when a gate failed, with 4 when one is undecided.
    """
    show_progress(quiet=quiet, verbose=verbose)
    if out is not None:
        check_out(out)
    other, task = load_recipe(recipe) if recipe else None, passages(lambada, no_lambada)
    options = measuring_options(threads, memory, device)
    from pythia_quant.cli.jobs import Changes
    from pythia_quant.cli.jobs import bench as bench_artifacts
    from pythia_quant.report.terminal import print_results

    changes = Changes(other, model, text, task, context)
    if out is None and any(map(is_from_a_hub, artifacts)):
        out = Path()
    outcome = bench_artifacts(local_folders(artifacts), progress_console, changes, options, out)
    if as_json:
        print(printable_json(outcome.results.model_dump_json(indent=1)))
    else:
        print_results(outcome.results, out_console, width=output_width())
        out_console.print(f"\nWritten to {outcome.path}", markup=False, soft_wrap=True)
    exit_by_gates(outcome.results)
