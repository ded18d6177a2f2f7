"""pythia-quant sweep: a study over many checkpoints, and its report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.cli.arguments import check_device, check_out, parse_out
from pythia_quant.cli.completion import complete_study
from pythia_quant.cli.options import AsJson, Quiet, Verbose, show_progress
from pythia_quant.core.console import EVERY_VARIABLE, example
from pythia_quant.core.errors import ArgumentError
from pythia_quant.formats.packages import refuse_missing
from pythia_quant.formats.table import missing_packages
from pythia_quant.sweep.study import shipped_studies

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed


class EngineName(StrEnum):
    """Where jobs are done."""

    LOCAL = "local"
    RAY = "ray"


NAME = "sweep"

commands = typer.Typer()
sweep = typer.Typer(
    help="Run a study over many checkpoints (sweep STUDY.yaml), or make its report again (sweep report).",
    no_args_is_help=True,
)
commands.add_typer(sweep, name=NAME)

_CODES = {"4": "Some jobs failed, or their revision does not exist. All others are done."}


_StudyFile = Annotated[Path | None, typer.Argument(metavar="STUDY", help="The study file.")]
_Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help=f"Take a study that ships with the package: {', '.join(shipped_studies())}.",
        autocompletion=complete_study,
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        parser=parse_out,
        help="Write the table and the report into this folder.",
        show_default="studies/ and the study's name",
    ),
]
_Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Keep results in this folder, or at an address that fsspec reaches.",
        show_default="store in the study's folder",
    ),
]
_Engine = Annotated[EngineName, typer.Option("--engine", help="Do the jobs here, or on a Ray cluster.")]
_Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="The Ray cluster: auto, or ray://HOST:PORT.",
        show_default="a cluster of this machine alone",
    ),
]
_Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        max=4096,
        help="Do so many jobs at a time on this machine.",
        show_default="as many as cores and memory hold",
    ),
]
_RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Also do the jobs again that have failed before.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and about what it takes.")]


@sweep.command(
    "run",
    epilog=example(
        "pythia-quant sweep study.yaml --dry-run",
        "pythia-quant sweep --preset seeds --out studies/seeds",
        "pythia-quant sweep study.yaml --engine ray --address auto --store s3://bucket/study",
        codes=_CODES,
        variables=EVERY_VARIABLE,
    ),
)
def run(
    study: _StudyFile = None,
    preset: _Preset = None,
    out: _Out = None,
    store: _Store = None,
    engine: _Engine = EngineName.LOCAL,
    address: _Address = None,
    workers: _Workers = None,
    retry_failed: _RetryFailed = False,
    dry_run: _DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Convert and measure every variant of a study at each of its checkpoints, and write a table and a report.

    A plan is printed first. A result that the store has is not computed again, whatever machine it came from. After an
    interruption the same command goes on.
    """  # fmt: skip
    show_progress(quiet=quiet, verbose=verbose)
    if (study is None) == (preset is None):
        raise ArgumentError("is needed, or --preset; and not both", where="STUDY", hint="pythia-quant sweep --help")
    if engine == EngineName.LOCAL and address is not None:
        raise ArgumentError("is of --engine ray", where="--address", hint="leave it out, or add --engine ray")
    if engine == EngineName.RAY and workers is not None:
        raise ArgumentError("is of --engine local", where="--workers", hint="a Ray cluster knows its own size")
    _check_packages()
    from pythia_quant.sweep.study import load_preset, load_study

    chosen = load_preset(preset) if preset is not None else load_study(study or "")
    folder = out or Path("studies") / chosen.name
    check_out(folder)
    if engine == EngineName.LOCAL:
        check_device(chosen.settings.device, "device: cuda")
    from pythia_quant.cli.sweep_job import Request, sweep_study

    request = Request(chosen, folder, store, engine.value, address, workers, retry_failed=retry_failed, dry_run=dry_run)
    raise typer.Exit(sweep_study(request, as_json=as_json))


@sweep.command("report", epilog=example("pythia-quant sweep report studies/seeds/table.parquet --out report"))
def report(
    tables: Annotated[
        list[Path], typer.Argument(metavar="TABLE...", help="Tables that sweep wrote, or the folders of studies.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", parser=parse_out, help="Write the report into this folder.")
    ] = Path("report"),
    as_json: AsJson = False,
) -> None:
    """Make the report of a study again from its table alone, or one report of several tables."""
    check_out(out)
    _check_packages()
    from pythia_quant.cli.sweep_job import report_tables

    report_tables(tables, out, as_json=as_json)


def _check_packages() -> None:
    """Refuse a study without the packages that write its table and its report; all that are missing are named.

    Raises:
        ArtifactError: some are missing; the hint has the command that installs them.
    """
    absent = [package for name in ("pyarrow", "scipy", "matplotlib") for package in missing_packages(name)]
    refuse_missing({"a study": absent} if absent else {})
