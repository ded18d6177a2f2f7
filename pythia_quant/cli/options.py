"""Arguments and options that several commands take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pythia_quant.cli.arguments import check_device, parse_memory, parse_out
from pythia_quant.cli.completion import complete_artifact, complete_recipe, complete_variant
from pythia_quant.core.console import progress_console
from pythia_quant.core.errors import ArgumentError, BenchmarkError
from pythia_quant.core.foreign_files import snapshot_of
from pythia_quant.model.source_name import SCHEME

if TYPE_CHECKING:
    from pythia_quant.bench.rows import Options

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed


class DeviceName(StrEnum):
    """Where a model runs."""

    CPU = "cpu"
    CUDA = "cuda"


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or the name of a recipe that ships with the package; `recipes list` shows them.",
        autocompletion=complete_recipe,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="VARIANT",
        help="Take only this variant. Repeat the option for several.",
        show_default="all variants",
        autocompletion=complete_variant,
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", parser=parse_out, help="The folder for the artifacts.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="ID|FOLDER",
        help="Take another model than the recipe's: a name, a folder, a hub repository, or its address.",
        show_default="the recipe's",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        "--revision",
        metavar="REVISION",
        help="The branch, tag or commit of the model, such as step3000. Several are named by step0,step512, by "
        "step1000..step3000, by step1000..step143000/10, or by all, and taken in turn.",
        show_default="the recipe's",
    ),
]
TextFile = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Evaluate on this text, in UTF-8, JSON lines or parquet.",
        show_default="the recipe's",
    ),
]
LambadaFile = Annotated[
    Path | None,
    typer.Option(
        "--lambada",
        metavar="FILE",
        help="Also measure how well the last words of LAMBADA's passages in this file are predicted.",
        show_default="the recipe's",
    ),
]
NoLambada = Annotated[bool, typer.Option("--no-lambada", help="Do not measure LAMBADA, whatever the recipe says.")]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        min=2,
        help="Take windows of N tokens, for evaluation and for calibration.",
        show_default="the recipe's",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        help="Calibrate on this text, in UTF-8, JSON lines or parquet.",
        show_default="the recipe's",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a setting of the recipe, such as variants.gptq-int4.bits=3. Repeat the option for several.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace artifacts that are already there.")]
Artifacts = Annotated[
    list[str],
    typer.Argument(
        metavar="ARTIFACT",
        help="The folder of an artifact, or hf://owner/name@revision for one on the hub. Give one or more.",
        autocompletion=complete_artifact,
    ),
]
Threads = Annotated[
    list[int] | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        max=4096,
        help="Run every runtime with N threads. Repeat the option to measure speed with each number.",
        show_default="the processors that may be used",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Use so much memory at most, such as 4GiB or 500MB. A model that needs more runs layer by layer, and its "
        "speed is not measured.",
        show_default="the memory that is free",
    ),
]
Device = Annotated[DeviceName, typer.Option("--device", help="Run on this device. ONNX always runs on the CPU.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result and errors, no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print what is done inside each step.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def show_progress(*, quiet: bool, verbose: bool) -> None:
    """Decide how much commands tell of their progress, on standard error.

    Raises:
        ArgumentError: both less and more were asked for.
    """
    if quiet and verbose:
        raise ArgumentError("contradict each other", where="--quiet and --verbose", hint="give one of them")
    progress_console.quiet, progress_console.verbose = quiet, verbose


def local_folders(artifacts: list[str]) -> list[Path]:
    """Return the folders of artifacts; artifacts on a hub are downloaded."""
    if not any(name.startswith(SCHEME) for name in artifacts):
        return [Path(name) for name in artifacts]
    from pythia_quant.artifacts.pull import pull
    from pythia_quant.core.progress import Steps

    folders = []
    with Steps(len(artifacts), progress_console) as steps:
        for name in artifacts:
            with steps.step(f"opening {name}") as progress:
                folders.append(pull(name, progress) if name.startswith(SCHEME) else Path(name))
    return folders


def is_from_a_hub(artifact: str) -> bool:
    """Say whether an artifact is on a hub, or in the cache of the hub's client, where no other file may be written."""
    return artifact.startswith(SCHEME) or snapshot_of(Path(artifact).absolute()) is not None


def passages(lambada: Path | None, no_lambada: bool) -> Path | bool | None:
    """Return the file of LAMBADA's passages by the command line, False for none, or None for those of the recipe."""
    if lambada is not None and no_lambada:
        raise BenchmarkError("contradict each other", where="--lambada and --no-lambada", hint="give one of them")
    return False if no_lambada else lambada


def measuring_options(threads: list[int] | None, memory: str | None, device: DeviceName) -> Options:
    """Return how to measure, by the options of the command line.

    Raises:
        ArgumentError: an option cannot be used here; torch is imported only if all can.
    """
    allowed = None if memory is None else parse_memory(memory)
    check_device(device.value)
    from pythia_quant.bench.rows import Options
    from pythia_quant.core.machine import cores

    # A number that is repeated counts once. Everything but speed is measured with the first number.
    chosen = list(dict.fromkeys(threads or [cores()]))
    return Options(chosen, allowed, device.value)
