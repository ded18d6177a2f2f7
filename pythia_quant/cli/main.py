"""The command line: all commands, and how the program ends."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from pythia_quant.cli import (
    bench,
    cache,
    compare,
    convert,
    generate,
    ls,
    publish,
    quantize,
    recipes,
    report,
    run,
    sbom,
    sensitivity,
    serve,
    show,
    sign,
    source,
    suite,
    sweep,
    tune,
    verify,
    web,
)
from pythia_quant.cli.options import show_progress
from pythia_quant.core import machine
from pythia_quant.core.console import (
    finish_output,
    help_output,
    overview,
    prepare_output,
    print_error,
    print_message,
    wrapped,
)
from pythia_quant.core.errors import ArgumentError, PythiaQuantError, refusal
from pythia_quant.core.hub_environment import check_hub_environment
from pythia_quant.core.interrupt import interrupt_own_code, received
from pythia_quant.core.machine import bound_threads
from pythia_quant.core.text import log_everything, log_printable, printable, redacted, redacted_traceback

_HELP = ("-h", "--help")
_DEFAULTS = {sweep.NAME: "run"}
"""The command that is meant where only its group is named: `sweep STUDY` for `sweep run STUDY`."""


class _Help:
    help: str | None
    epilog: str | None

    def format_help(self, context: Any, formatter: Any) -> None:
        # typer keeps the line breaks of docstrings, which are those of another width than the terminal's.
        self.help = "\n\n".join(" ".join(part.split()) for part in (self.help or "").split("\n\n"))
        self.epilog = wrapped(self.epilog or "")
        with help_output():
            super().format_help(context, formatter)  # type: ignore[misc]


class _Command(_Help, TyperCommand):
    """A command whose help fills its lines, and has no blanks at their ends."""


class _Group(_Help, TyperGroup):
    """Commands below one name, with help as that of a command. One of them may be meant where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        default = _DEFAULTS.get(self.name or "")
        if default and args and args[0] not in (*self.commands, *_HELP):
            args = [default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="pythia-quant",
    cls=_Group,
    help="Quantize EleutherAI's Pythia models and measure what it cost.",
    epilog=overview(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(_HELP)},
    rich_markup_mode="rich",
)
PANELS = {
    "Quantize": (quantize, run, convert, recipes, suite, source),
    "Measure": (bench, sweep, show, report, compare, verify),
    "Choose": (tune, sensitivity),
    "Use": (generate, serve, web),
    "Manage and publish": (ls, cache, sbom, sign, publish),
}
"""The headings of --help, and the commands below each."""


def _set_classes(commands: typer.Typer) -> None:
    for command in commands.registered_commands:
        command.cls = _Command
    for group in commands.registered_groups:
        group.cls = _Group
        if group.typer_instance:
            _set_classes(group.typer_instance)


for panel, parts in PANELS.items():
    for part in parts:
        for command in (*part.commands.registered_commands, *part.commands.registered_groups):
            command.rich_help_panel = panel
        _set_classes(part.commands)
        app.add_typer(part.commands)
SIGNALLED = 128
"""Plus the number of the signal that ended a program, its exit code, as in shells: 130 for Ctrl-C."""
CLOSED_PIPE = SIGNALLED + 13
"""The exit code when the reader of the output has gone, as in ``… | head``: that of a program ended by SIGPIPE."""


def _print_version(is_set: bool) -> None:
    if is_set:
        print(machine.tool_version())
        raise typer.Exit


@app.callback()
def for_every_command(
    debug: Annotated[
        bool, typer.Option("--debug", help="Log every call to a hub, and show tracebacks. Secrets are left out.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Apply the options of all commands."""
    show_progress(quiet=False, verbose=False)
    if debug:
        log_everything()


def check_arguments(arguments: list[str]) -> None:
    """Refuse a prompt, name or path that is not UTF-8: tokenizers, manifests and result files cannot hold it.

    Raises:
        ArgumentError: an argument is not UTF-8; the message shows its bytes as escapes.
    """
    for argument in arguments:
        if any("\ud800" <= sign <= "\udfff" for sign in argument):
            raise ArgumentError("is not UTF-8", where=printable(argument)[-80:], hint="give it in that encoding")


def main(command: Callable[[], object] = app) -> None:
    """Run the program. An error that the user can act on becomes one message and exit code 2."""
    interrupt_own_code()
    prepare_output()
    log_printable()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # warnings of libraries are for programmers
    bound_threads()
    failure: BaseException | None = None
    try:
        Path.cwd()  # raises if the current folder was removed; libraries would fail there in ways of their own
        check_arguments(sys.argv[1:])
        check_hub_environment()
        command()
    except BaseException as error:
        failure = error
    if code := _exit_code(failure, finish_output()):
        raise SystemExit(code)


def _exit_code(failure: BaseException | None, broken: OSError | None) -> int | str | None:
    """Print a message if a command failed, and return the program's exit code.

    Args:
        failure: the exception that the command raised.
        broken: the error that ended its output early.
    """
    code = failure.code if isinstance(failure, SystemExit) else int(failure is not None)
    signal_received = received()
    if code and signal_received:
        how = "interrupted" if signal_received == signal.SIGINT else f"ended by {signal_received.name}"
        print_message(f"{how}; the same command goes on with what is missing")
        return SIGNALLED + signal_received
    # typer catches a BrokenPipeError, and exits with 1.
    if isinstance(broken, BrokenPipeError) or isinstance(failure and failure.__context__, BrokenPipeError):
        return CLOSED_PIPE
    error = failure if isinstance(failure, PythiaQuantError) else None
    if broken:
        error = error or refusal(broken)
    elif isinstance(failure, OSError):
        error = refusal(failure)
    if error:
        if failure and logging.root.isEnabledFor(logging.DEBUG):
            print_message(redacted_traceback(failure))
        print_error(error)
        return 2
    if isinstance(failure, Exception):
        _report_defect(failure)
    return code


def _report_defect(error: Exception) -> None:
    """Print an error that is our fault, with a traceback for a report, from which secrets are removed."""
    python = machine.library_versions()["python"]
    print_message(
        f"error: {redacted(repr(error))}\n"
        f"  this is a defect of ours: please report it with the command and what follows "
        f"({machine.tool_version()}, Python {python}, {machine.system()})"
    )
    print_message(redacted_traceback(error))
