"""pythia-quant quantize: one artifact of a model, without a recipe."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.cli.arguments import check_out, check_packages
from pythia_quant.cli.gates import exit_by_gates
from pythia_quant.cli.options import (
    AsJson,
    CalibrationFile,
    Out,
    Overwrite,
    Quiet,
    Set,
    TextFile,
    Verbose,
    show_progress,
)
from pythia_quant.cli.outcomes import conversion_data, print_conversion
from pythia_quant.core.console import (
    EVERY_VARIABLE,
    GATE_CODES,
    example,
    out_console,
    output_width,
    print_json,
    progress_console,
)
from pythia_quant.recipe.methods import DEFAULT, METHODS, recipe_of_method
from pythia_quant.recipe.set_keys import parse_assignments, set_keys

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()


_Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The model: a name such as demo or pythia-160m, a folder, a hub repository, or its address.",
    ),
]
_Method = Annotated[
    str, typer.Option("--method", metavar="METHOD", help=f"Quantize in this way: {', '.join(METHODS)}.")
]
_Bits = Annotated[
    int | None,
    typer.Option("--bits", metavar="N", help="Store N bits a weight, before scales.", show_default="the method's"),
]
_GroupSize = Annotated[
    int | None,
    typer.Option("--group-size", metavar="N", help="Have N weights share a scale.", show_default="the method's"),
]
_Revision = Annotated[
    str | None,
    typer.Option(
        "--revision",
        metavar="REVISION",
        help="The branch, tag or commit of the model, such as step3000.",
        show_default="main",
    ),
]
_Bench = Annotated[bool, typer.Option("--bench", help="Also measure the artifact against its source.")]


@commands.command(
    epilog=example(
        "pythia-quant quantize demo --method onnx-int8",
        "pythia-quant quantize ./my-finetuned-pythia --bits 3 --group-size 64 --calibration train.txt --bench",
        codes=GATE_CODES,
        variables=EVERY_VARIABLE,
    )
)
def quantize(
    model: _Model,
    method: _Method = DEFAULT,
    bits: _Bits = None,
    group_size: _GroupSize = None,
    out: Out = Path("artifacts"),
    revision: _Revision = None,
    text: TextFile = None,
    calibration: CalibrationFile = None,
    set_: Set = None,
    bench: _Bench = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Quantize MODEL by a method, without a recipe. The recipe that was used is written beside the artifact.

    The artifact goes to DIR/<source>/<revision>/<variant>. The texts and the rest of the settings are those of the
    recipe that ships for the model; for other models, the texts are parts of the text that every Python carries.
    """
    show_progress(quiet=quiet, verbose=verbose)
    check_out(out)
    recipe, name = recipe_of_method(
        model, method, bits=bits, group_size=group_size, revision=revision, text=text, calibration=calibration
    )
    recipe = set_keys(recipe, parse_assignments(set_ or []))
    check_packages(recipe, [name])
    from pythia_quant.cli.jobs import bench as bench_artifacts
    from pythia_quant.cli.jobs import convert_all
    from pythia_quant.library.quantize import save_recipe

    began = datetime.now(UTC)
    (artifact,) = convert_all(recipe, out, [name], overwrite, progress_console)
    path = save_recipe(recipe, artifact)
    if not as_json:
        print_conversion(artifact, began)
        out_console.print(f"Its recipe: {path}", markup=False, soft_wrap=True)
    outcome = bench_artifacts([artifact.folder], progress_console) if bench else None
    if as_json:
        measured = {"results": outcome.results.model_dump(mode="json")} if outcome else {}
        print_json(conversion_data(artifact, began) | {"recipe": path} | measured)
    elif outcome:
        from pythia_quant.report.terminal import print_results

        print_results(outcome.results, out_console, width=output_width())
        out_console.print(f"\nWritten to {outcome.path}", markup=False, soft_wrap=True)
    if outcome:
        exit_by_gates(outcome.results)
