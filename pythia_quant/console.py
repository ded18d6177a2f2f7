"""Where the command line prints: results on standard output, progress and errors on the other one."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from pythia_quant.errors import PythiaQuantError
from pythia_quant.printable import printable


class PrintableConsole(Console):
    """A console on which text is text: what names and messages hold of control characters is shown as escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


if TYPE_CHECKING:
    from typing_extensions import Buffer

# Tables take up to 100 columns: on a narrower terminal a wrapped line is better than a number cut short.
out_console = PrintableConsole(width=max(100, Console().width))
progress_console = PrintableConsole(stderr=True)


def example(*commands: str) -> str:
    """Return the end of a command's help."""
    return "Example:\n\n" + "\n\n".join(f"[cyan]{command}[/]" for command in commands)


def print_error(error: PythiaQuantError) -> None:
    """Print what the user can act on."""
    with suppress(OSError):
        progress_console.print("[bold red]error:[/] ", end="")
    print_message(str(error))


def print_message(text: str) -> None:
    """Print text as it is, for the user to read; where nobody can be told any more, nothing happens."""
    with suppress(OSError):
        progress_console.print(text, markup=False, highlight=False, soft_wrap=True)


class _StandardOutput(io.FileIO):
    """Standard output, whose errors say that it is."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def prepare_output() -> None:
    """Have characters that standard output cannot show replaced, and its errors named as what they are."""
    old = sys.stdout
    if isinstance(old, io.TextIOWrapper):
        file = io.BufferedWriter(_StandardOutput(old.fileno(), "wb", closefd=False))
        sys.stdout = io.TextIOWrapper(file, old.encoding, "replace", line_buffering=old.line_buffering)


def finish_output() -> OSError | None:
    """Write what standard output still holds; return why that cannot be, after which it is given up."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # Python would try again at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None
