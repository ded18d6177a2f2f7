"""pythia-quant sensitivity: what each tensor costs alone, in every type that it may have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pythia_quant.cli.arguments import check_out, parse_out
from pythia_quant.cli.options import (
    AsJson,
    CalibrationFile,
    Model,
    Only,
    Quiet,
    RecipeArgument,
    Set,
    TextFile,
    Verbose,
    show_progress,
)
from pythia_quant.core.console import EVERY_VARIABLE, example, out_console, print_json, progress_console
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.formats.packages import refuse_missing
from pythia_quant.formats.table import missing_packages
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import Recipe, load_recipe
from pythia_quant.recipe.set_keys import parse_assignments, set_keys

if TYPE_CHECKING:
    from pythia_quant.tune.records import Sensitivity
    from pythia_quant.tune.texts import TextChoice

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()

TuneOut = Annotated[
    Path, typer.Option("--out", metavar="DIR", parser=parse_out, help="The folder for all that is found.")
]
Predict = Annotated[
    bool,
    typer.Option("--predict", help="Predict what tensors cost by one pass backwards, which takes seconds a layer."),
]
SearchText = Annotated[
    Path | None,
    typer.Option(
        "--search-text",
        metavar="FILE",
        help="Measure single tensors on this text.",
        show_default="what calibration has not drawn of its text",
    ),
]
SearchWindows = Annotated[
    int, typer.Option("--search-windows", metavar="N", min=8, max=100_000, help="Windows of the search text.")
]


@commands.command(
    epilog=example(
        "pythia-quant sensitivity demo --only onnx-int8 --predict",
        "pythia-quant sensitivity recipes/pythia-160m.yaml --only gguf-q4 --out tuned",
        variables=EVERY_VARIABLE,
    )
)
def sensitivity(
    recipe: RecipeArgument,
    only: Only = None,
    out: TuneOut = Path("tuned"),
    model: Model = None,
    text: TextFile = None,
    calibration: CalibrationFile = None,
    search_text: SearchText = None,
    search_windows: SearchWindows = 16,
    predict: Predict = False,
    set_: Set = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say what each tensor costs alone: the KL divergence when only it is quantized, in every type that it may have.

    It writes a file that `tune` reads, and a picture of layers and tensors. After an interruption the same command
    goes on.
    """
    show_progress(quiet=quiet, verbose=verbose)
    chosen = opened_recipe(recipe, out, model, text, calibration, set_)
    from pythia_quant.core.progress import Steps
    from pythia_quant.tune.job import sensitivities, tunable

    names = tunable(chosen, only or [])
    texts = text_choice(search_text, None, search_windows, 64)
    with Steps(2 + len(names), progress_console) as steps:
        found = sensitivities(chosen, names, out, texts, steps, measures=not predict)
    if as_json:
        print_json([each.model_dump(mode="json") for each in found.values()])
        return
    for each in found.values():
        _print(each)
    for path in draw_sensitivities(found, out):
        out_console.print(f"{path}", markup=False, highlight=False, soft_wrap=True)


def opened_recipe(
    recipe: str, out: Path, model: str | None, text: Path | None, calibration: Path | None, set_: list[str] | None
) -> Recipe:
    """Return the recipe that a command line names, after all that can be refused before torch is imported.

    Raises:
        PythiaQuantError: the recipe, an option or the folder cannot be used, or a package is missing.
    """
    check_out(out)
    absent = [package for name in ("scipy", "matplotlib") for package in missing_packages(name)]
    refuse_missing({"tune": absent} if absent else {})
    chosen = override(load_recipe(recipe), model=model, text=text, calibration=calibration)
    return set_keys(chosen, parse_assignments(set_ or []))


def text_choice(search: Path | None, selection: list[Path] | None, windows: int, selecting: int) -> TextChoice:
    """Return where search and selection text come from."""
    from pythia_quant.tune.texts import TextChoice

    return TextChoice(search, tuple(selection or ()), windows, selecting)


def _print(found: Sensitivity) -> None:
    from pythia_quant.tune.tables import sensitivity_sentences, sensitivity_table

    out_console.print(f"{found.source.model} as {found.variant}", style="bold", markup=False, highlight=False)
    out_console.print(sensitivity_table(found))
    for sentence in sensitivity_sentences(found):
        out_console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def draw_sensitivities(found: dict[str, Sensitivity], out: Path) -> list[Path]:
    """Draw a heat map beside the file of each variant; return the files of both."""
    from pythia_quant.report.style import render_figure
    from pythia_quant.tune.plots import draw_heat_map

    paths: list[Path] = []
    for name, each in found.items():
        files = sorted(out.glob(f"*/*/sensitivity-{name}.json"), key=lambda path: path.stat().st_mtime)
        if not files:
            raise PythiaQuantError("was removed meanwhile", where=str(out))
        file = files[-1]
        picture = file.with_suffix(".png")
        picture.write_bytes(render_figure(draw_heat_map(each), "png"))
        paths += [file, picture]
    return paths
