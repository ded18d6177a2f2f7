"""The command line: arguments in, one library call, printed result out."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from pythia_quant import hub_commands, suite
from pythia_quant.console import example, out_console, progress_console
from pythia_quant.errors import BenchmarkError, PythiaQuantError
from pythia_quant.hub import SCHEME
from pythia_quant.interruption import interrupt_own_code
from pythia_quant.recipe import Recipe, load_recipe, shipped_recipes
from pythia_quant.redaction import log_everything, redacted_traceback
from pythia_quant.steps import names_several, parse_revisions

if TYPE_CHECKING:
    from pythia_quant.bench.benchmark import Options
    from pythia_quant.results import Results

T = TypeVar("T")

# Imports of torch and the backends stand inside the commands that need them: --help answers at once.
# ruff: noqa: PLC0415

app = typer.Typer(
    name="pythia-quant",
    help="Quantize EleutherAI's Pythia models and measure what it cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
recipes_app = typer.Typer(help="List, show and check recipes.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")


class DeviceName(StrEnum):
    """Where a model runs."""

    CPU = "cpu"
    CUDA = "cuda"


RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of one that ships with the package.")]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="VARIANT", help="Only this variant; repeatable.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the artifacts.")]
Model = Annotated[str | None, typer.Option("--model", metavar="ID|FOLDER", help="Another model than the recipe's.")]
Revision = Annotated[
    str | None,
    typer.Option(
        "--revision",
        help="Branch, tag or commit, such as step3000; several as step0,step512, step1000..step3000 or all.",
    ),
]
TextFile = Annotated[
    Path | None, typer.Option("--text", metavar="FILE", help="Evaluate on this text, UTF-8 or parquet.")
]
LambadaFile = Annotated[
    Path | None, typer.Option("--lambada", metavar="FILE", help="Measure LAMBADA's last words on this file, too.")
]
CalibrationFile = Annotated[
    Path | None, typer.Option("--calibration", metavar="FILE", help="Calibrate on this text, UTF-8 or parquet.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace artifacts that are already there.")]
Artifacts = Annotated[
    list[str], typer.Argument(metavar="ARTIFACT...", help="Folders that convert has left, or hf://owner/name@revision.")
]
Threads = Annotated[
    list[int] | None,
    typer.Option("--threads", metavar="N", min=1, help="Of every runtime; repeat it to measure speed with each."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="SIZE", help="At most so much, such as 4GiB: what needs more runs layer by layer."
    ),
]
Device = Annotated[DeviceName, typer.Option("--device", help="Where all but ONNX runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


class TableForm(StrEnum):
    """How a table of results is written."""

    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


GATE_FAILED, GATE_UNDECIDED = 3, 4
"""Exit codes of a measurement that was made, and of which a gate failed or is undecided."""
WORSE = 3
"""Exit code of a comparison in which something became worse."""
INTERRUPTED = 130
"""Exit code that typer gives to Ctrl-C, as shells do."""


@app.command(
    epilog=example(
        "pythia-quant run demo",
        "pythia-quant run recipes/pythia-160m.yaml --only onnx-int8",
        "pythia-quant run pythia-160m --only onnx-int8 --revision step1000..step143000/10",
    )
)
def run(
    recipe: RecipeArgument,
    only: Only = None,
    out: Out = Path("artifacts"),
    model: Model = None,
    revision: Revision = None,
    text: TextFile = None,
    calibration: CalibrationFile = None,
    lambada: LambadaFile = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    memory: Memory = None,
    device: Device = DeviceName.CPU,
) -> None:
    """Convert every variant of RECIPE, measure each against the fp16 baseline, and print one table.

    Exits with 3 when a gate failed, with 4 when one is undecided. Of several revisions each has its table, in turn.
    """
    from pythia_quant.report.terminal import print_results
    from pythia_quant.run import run as run_recipe

    options = _options(threads, memory, device)

    def run_one(chosen: Recipe) -> Results:
        outcome = run_recipe(chosen, out, only or [], overwrite, progress_console, options)
        print_results(outcome.results, out_console)
        out_console.print(f"\nArtifacts and {outcome.path.name} are in {outcome.path.parent}", soft_wrap=True)
        return outcome.results

    chosen = load_recipe(recipe).overridden(model, None, text, calibration, lambada)
    exit_by_gates(*_in_turn(_at_revisions(chosen, revision), run_one))


@app.command(epilog=example("pythia-quant convert demo --only gptq-int4 --out artifacts"))
def convert(
    recipe: RecipeArgument,
    only: Only = None,
    out: Out = Path("artifacts"),
    model: Model = None,
    revision: Revision = None,
    text: TextFile = None,
    calibration: CalibrationFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert the variants of RECIPE and measure nothing. Artifacts go to DIR/<source>/<revision>/<variant>."""
    from pythia_quant.run import convert_all

    def convert_one(chosen: Recipe) -> None:
        for artifact in convert_all(chosen, out, only or [], overwrite, progress_console):
            manifest = artifact.manifest
            size = f"{manifest.bits_per_weight:.2f} bits a weight, {manifest.bytes_on_disk / 1e6:.1f} MB on disk"
            out_console.print(f"[bold]{manifest.variant}[/]: {size}, in {escape(str(artifact.folder))}", soft_wrap=True)

    chosen = load_recipe(recipe).overridden(model, None, text, calibration)
    _in_turn(_at_revisions(chosen, revision), convert_one)


@app.command(
    epilog=example(
        "pythia-quant bench artifacts/demo/builtin/*/",
        "pythia-quant bench artifacts/demo/builtin/onnx-int8 --threads 1 --threads 2 --recipe mine.yaml",
    )
)
def bench(
    artifacts: Artifacts,
    text: TextFile = None,
    lambada: LambadaFile = None,
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
            help="Folder for results.json. [default: the artifacts'; of those from a hub, the current one]",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure artifacts against their source. results.json is written beside them; an earlier one is kept.

    Exits with 3 when a gate failed, with 4 when one is undecided.
    """
    from pythia_quant.report.terminal import print_results
    from pythia_quant.run import bench as bench_artifacts

    measured_by = load_recipe(recipe) if recipe else None
    options = _options(threads, memory, device)
    if out is None and any(name.startswith(SCHEME) for name in artifacts):
        out = Path()
    folders = _local(artifacts)
    outcome = bench_artifacts(folders, text, lambada, progress_console, options, measured_by, model, out)
    if as_json:
        print(outcome.results.model_dump_json(indent=1))
    else:
        print_results(outcome.results, out_console)
        out_console.print(f"\nWritten to {outcome.path}", soft_wrap=True)
    exit_by_gates(outcome.results)


@app.command(
    epilog=example(
        "pythia-quant report artifacts/demo/builtin/results.json --out report",
        "pythia-quant report artifacts/*/main/ --format markdown > table.md",
    )
)
def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Result files, or folders with a results.json.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder for the page and its plots; an earlier report there is replaced. [default: report]",
        ),
    ] = None,
    form: Annotated[
        list[TableForm] | None,
        typer.Option(
            "--format",
            help="Print a table instead of writing the page; with --out, leave it beside the page. Repeatable.",
        ),
    ] = None,
) -> None:
    """Show result files as one HTML page with plots as SVG and PNG, or as a table in Markdown, CSV or JSON."""
    from pythia_quant.report.files import read_files
    from pythia_quant.report.tables import TableFormat, render_table

    forms: list[TableFormat] = [one.value for one in form or []]
    if forms and out is None:
        files = read_files(results)
        for one in forms:
            print(render_table(files, one), end="")
        return
    from pythia_quant.report.write import write_report

    out_console.print(f"Written to {write_report(results, out or Path('report'), forms)}", soft_wrap=True)


@app.command(epilog=example("pythia-quant compare last-week.json artifacts/demo/builtin/results.json"))
def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A result file that bench has written.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one, on the same text.")],
    everything: Annotated[bool, typer.Option("--all", help="Show what did not change, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what changed between two results beyond error, for two versions or two machines.

    Exits with 3 when something became worse. Results on different texts or by different protocols are refused.
    """
    from pythia_quant.bench.changes import compare_results
    from pythia_quant.report.changes import changes_data, changes_table
    from pythia_quant.results import load_results

    comparison = compare_results(load_results(before), load_results(after))
    if as_json:
        print(json.dumps(changes_data(comparison), indent=1))
    else:
        out_console.print(changes_table(comparison, everything=everything))
    if comparison.worse:
        raise typer.Exit(WORSE)


@app.command(epilog=example("pythia-quant verify artifacts/demo/builtin/onnx-int8"))
def verify(artifacts: Artifacts) -> None:
    """Check artifacts: the manifest, the hash of every file, that they load, and that they compute what they hold."""
    from pythia_quant.artifact import open_artifact, verify_files
    from pythia_quant.conversion import check_again

    for name, folder in zip(artifacts, _local(artifacts), strict=True):
        artifact = open_artifact(folder)
        verify_files(artifact)
        record = check_again(artifact)
        out_console.print(
            f"[bold]{escape(name)}[/]: {len(artifact.manifest.files)} files as in the manifest; "
            f"{record.runtime} runs them, KL from the weights in fp32 {record.kl_as_run:.1e} nat",
            soft_wrap=True,
        )


@app.command(epilog=example('pythia-quant generate artifacts/demo/builtin/onnx-int8 --prompt "def main("'))
def generate(
    artifact: Annotated[str, typer.Argument(help="Folder that convert has left, or hf://owner/name@revision.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to add.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the most likely token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling, at a temperature above 0.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Continue a text with an artifact, in the runtime that bench measures."""
    (folder,) = _local([artifact])
    from pythia_quant.generation import continue_text

    continuation = continue_text(folder, prompt, max_new_tokens, temperature, seed)
    if as_json:
        print(continuation.model_dump_json(indent=1))
    else:
        print(prompt + continuation.text)


@recipes_app.command("list", epilog=example("pythia-quant recipes list"))
def list_recipes() -> None:
    """List the recipes that ship with the package."""
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "model", "variants"):
        table.add_column(heading)
    for name, path in shipped_recipes().items():
        settings = load_recipe(path).settings
        table.add_row(name, settings.source.model, ", ".join(settings.variants))
    out_console.print(table)


@recipes_app.command("show", epilog=example("pythia-quant recipes show pythia-160m > mine.yaml"))
def show_recipe(name: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a file.")]) -> None:
    """Print a recipe, to read or to start one's own from."""
    content = load_recipe(name).path.read_text(encoding="utf-8")
    if out_console.is_terminal:
        out_console.print(Syntax(content, "yaml", background_color="default"))
    else:
        print(content, end="")


@recipes_app.command("validate", epilog=example("pythia-quant recipes validate mine.yaml"))
def validate_recipes(paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recipe files.")]) -> None:
    """Check recipe files: keys, types, and that the settings fit the model where it is one of the suite."""
    errors = 0
    for path in paths:
        try:
            recipe = load_recipe(path)
            recipe.check_suite()
            out_console.print(f"{escape(str(path))}: valid, recipe id {recipe.id}", soft_wrap=True)
        except PythiaQuantError as error:
            errors += 1
            _print_error(error)
    if errors:
        raise typer.Exit(2)


@app.command("suite", epilog=example("pythia-quant suite --json"))
def show_suite(as_json: AsJson = False) -> None:
    """Show the sizes of the Pythia suite."""
    if as_json:
        print(json.dumps([vars(size) for size in suite.SIZES.values()], indent=1))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("size", "layers", "width", "heads", "vocabulary", "parameters", "non-embedding", "families"):
        left = heading in ("size", "families")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for size in suite.SIZES.values():
        families = " ".join(m.family.lstrip("-") or "plain" for m in suite.members() if m.size == size)
        numbers = (size.layers, size.width, size.heads, size.vocabulary, size.parameters, size.non_embedding_parameters)
        table.add_row(size.name, *(f"{number:,}" for number in numbers), families)
    out_console.print(table)
    out_console.print("154 revisions each (step0 to step143000); the v0 families 143, from step1000.", style="dim")


app.command(
    "publish",
    epilog=example(
        "pythia-quant publish artifacts/demo/builtin/onnx-int8 --repo-id me/demo-onnx-int8 --dry-run",
        "pythia-quant publish --all artifacts --repo-id 'me/{model}-{variant}' --revision '{revision}' --yes",
    ),
)(hub_commands.publish)
app.command(
    "source",
    epilog=example(
        "pythia-quant source EleutherAI/pythia-160m",
        "pythia-quant source EleutherAI/pythia-2.8b --steps all",
    ),
)(hub_commands.source)


def _local(artifacts: list[str]) -> list[Path]:
    """Return the folders of artifacts; those on a hub are downloaded."""
    if not any(name.startswith(SCHEME) for name in artifacts):
        return [Path(name) for name in artifacts]
    from pythia_quant.hub.pull import local_folder
    from pythia_quant.progress import Steps

    folders = []
    with Steps(len(artifacts), progress_console) as steps:
        for name in artifacts:
            with steps.step(f"opening {name}") as report:
                folders.append(local_folder(name, report))
    return folders


def _options(threads: list[int] | None, memory: str | None, device: DeviceName) -> Options:
    from pythia_quant.bench.benchmark import Options
    from pythia_quant.environment import cores

    # An option given twice counts once; the first is the one that all else is measured with.
    chosen = list(dict.fromkeys(threads or [cores()]))
    return Options(chosen, None if memory is None else _bytes(memory), device.value)


def _bytes(size: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?", size.strip())
    if not match:
        raise BenchmarkError(f"{size!r} is no size of memory", where="--memory", hint="give one such as 4GiB or 500MB")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def _at_revisions(recipe: Recipe, revision: str | None) -> list[Recipe]:
    """Return the recipe at every revision that the command line names."""
    if revision is None or not names_several(revision):
        return [recipe.overridden(revision=revision)]
    member = suite.find(recipe.settings.source.model)
    return [recipe.overridden(revision=one) for one in parse_revisions(revision, member.steps if member else None)]


def _in_turn(recipes: list[Recipe], do: Callable[[Recipe], T]) -> list[T]:
    """Do something with the recipe at each revision; a refusal ends it, and names the revision if there are several."""
    done: list[T] = []
    for recipe in recipes:
        try:
            done.append(do(recipe))
        except PythiaQuantError as error:
            if len(recipes) == 1:
                raise
            names = [one.settings.source.revision for one in recipes[: len(done) + 1]]
            kept = f"kept, done before it: {', '.join(names[:-1])}" if done else ""
            raise type(error)(
                error.what,
                where=": ".join(filter(None, (names[-1], error.where))),
                hint="\n  ".join(filter(None, (error.hint, kept))),
            ) from error
    return done


def exit_by_gates(*results: Results) -> None:
    """End with the exit code of the worst gate of all results; return when all passed."""
    outcomes = {gate.outcome for one in results for gate in one.gates}
    if "failed" in outcomes:
        raise typer.Exit(GATE_FAILED)
    if "undecided" in outcomes:
        raise typer.Exit(GATE_UNDECIDED)


def _print_error(error: PythiaQuantError) -> None:
    progress_console.print("[bold red]error:[/] ", end="")
    progress_console.print(str(error), markup=False, highlight=False, soft_wrap=True)


@app.callback()
def debugging(
    debug: Annotated[
        bool, typer.Option("--debug", help="Log every call to a hub and show tracebacks; secrets are left out.")
    ] = False,
) -> None:
    """Take what holds for every command."""
    if debug:
        log_everything()


def main(command: Callable[[], object] = app) -> None:
    """Run the program; what the user can act on becomes one message and exit code 2."""
    interrupt_own_code()
    try:
        command()
    except PythiaQuantError as error:
        if logging.root.isEnabledFor(logging.DEBUG):
            progress_console.print(redacted_traceback(error), markup=False, highlight=False, soft_wrap=True)
        _print_error(error)
        raise SystemExit(2) from None
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            progress_console.print("interrupted; the same command goes on with what is missing")
        raise
    except Exception as error:
        # A defect of ours; its traceback is for a report, and must not hold what would be secret there.
        progress_console.print(redacted_traceback(error), markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
