"""The command line: all commands, and how the program ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated

import typer

from pythia_quant.commands import hub, listing, reporting, using, working
from pythia_quant.console import print_error, progress_console
from pythia_quant.errors import PythiaQuantError
from pythia_quant.interruption import interrupt_own_code
from pythia_quant.redaction import log_everything, redacted_traceback

app = typer.Typer(
    name="pythia-quant",
    help="Quantize EleutherAI's Pythia models and measure what it cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
for part in (working, reporting, using, hub, listing):
    app.add_typer(part.commands)
INTERRUPTED = 130
"""Exit code that typer gives to Ctrl-C, as shells do."""


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
        print_error(error)
        raise SystemExit(2) from None
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            progress_console.print("interrupted; the same command goes on with what is missing")
        raise
    except Exception as error:
        # A defect of ours; its traceback is for a report, and must not hold what would be secret there.
        progress_console.print(redacted_traceback(error), markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
