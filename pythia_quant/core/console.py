"""The consoles of the command line: results go to standard output, progress and errors to standard error."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.text import printable


class PrintableConsole(Console):
    """A console that shows control characters in names and messages as escapes.

    rich fills the lines of tables with blanks up to their width. Where no terminal shows them, no line ends in blanks.

    Attributes:
        verbose: whether work tells it what is done inside each step; `quiet`, of rich, shows nothing.
    """

    verbose = False

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as printed:
            super().print(*objects, **options)
        self.file.write(_without_blanks(printed.get()))
        self.file.flush()


def _without_blanks(text: str) -> str:
    return re.sub(r" +(?=\n)", "", text)


if TYPE_CHECKING:
    from typing_extensions import Buffer

# Lists take up to 100 columns: on a narrower terminal a wrapped line is better than a name cut short. The table of
# results is arranged for the terminal's own width.
out_console = PrintableConsole(width=max(100, Console().width))
progress_console = PrintableConsole(stderr=True)
_error_console = PrintableConsole(stderr=True)


_PIPE_WIDTH = 100


def output_width() -> int:
    """Return the columns of standard output: the terminal's, or those that COLUMNS names; in a pipe without it, 100."""
    return shutil.get_terminal_size(fallback=(_PIPE_WIDTH, 24)).columns


def example(*commands: str) -> str:
    """Return examples for the end of a command's help."""
    return "Example:\n\n" + "\n\n".join(f"[cyan]{command}[/]" for command in commands)


@contextmanager
def help_output() -> Iterator[None]:
    """Leave out blanks at the ends of lines, as our consoles do, of help, which typer prints by a console of its own."""
    if sys.stdout is None or sys.stdout.isatty():
        yield
        return
    text = io.TextIOWrapper(io.BytesIO(), sys.stdout.encoding, "replace", write_through=True)
    with redirect_stdout(text):
        yield
    text.seek(0)
    sys.stdout.write(_without_blanks(text.read()))


def print_json(data: object) -> None:
    """Print data as JSON on standard output, in ASCII, so that every terminal and program reads it; paths as text."""
    print(json.dumps(data, indent=1, default=str))


def print_error(error: PythiaQuantError) -> None:
    """Print an error on standard error."""
    with suppress(OSError):
        _error_console.print("[bold red]error:[/] ", end="")
    print_message(str(error))


def print_message(text: str) -> None:
    """Print text as it is on standard error; do nothing when that is closed."""
    with suppress(OSError):
        _error_console.print(text, markup=False, highlight=False, soft_wrap=True)


class _StandardOutput(io.FileIO):
    """Standard output, with its name in its errors."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def prepare_output() -> None:
    """Make standard output replace the characters that it cannot encode, and name itself in its errors."""
    old = sys.stdout
    if isinstance(old, io.TextIOWrapper):
        file = io.BufferedWriter(_StandardOutput(old.fileno(), "wb", closefd=False))
        sys.stdout = io.TextIOWrapper(file, old.encoding, "replace", line_buffering=old.line_buffering)


def finish_output() -> OSError | None:
    """Flush standard output; if that fails, redirect it to nowhere and return the error."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # otherwise Python flushes again at exit, and prints a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None
