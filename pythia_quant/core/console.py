"""The consoles of the command line: results go to standard output, progress and errors to standard error."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
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


GATE_CODES = {"3": "A gate failed. All results are written.", "4": "A gate is undecided. All results are written."}
WORSE_CODE = {"3": "Something became worse."}
_EXIT_CODES = {
    "0": "Done.",
    "2": "Refused: an input is wrong or missing. A message says what to do.",
    "128+n": "Ended by signal n, 130 by Ctrl-C. The same command goes on.",
}

_VARIABLES = {
    "files": {
        "PYTHIA_QUANT_CACHE": "The folder of our cache.",
        "XDG_CACHE_HOME": "The user's cache folder, for ours as well.",
        "TMPDIR": "The folder for temporary files.",
    },
    "output": {
        "COLUMNS": "The width of tables, in characters.",
        "NO_COLOR": "With any value, no colours are printed.",
        "PYTHONWARNINGS": "Which warnings of libraries are shown.",
    },
    "hub": {
        "PYTHIA_QUANT_HUB_TIMEOUT": "The hub's longest silence, 60 seconds.",
        "HF_TOKEN": "The token, for private models and publish.",
        "HF_ENDPOINT": "The address of the hub or of a mirror.",
        "HF_HUB_OFFLINE": "With 1, only the hub's cache is read.",
        "HF_HOME": "The folder of the hub's token and cache.",
        "HF_HUB_CACHE": "The folder of the hub's cache.",
        "HF_HUB_DISABLE_XET": "With 0, large files go over Xet.",
        "HF_HUB_ETAG_TIMEOUT": "The client's time limit, 10 seconds.",
        "HF_HUB_DOWNLOAD_TIMEOUT": "The same for downloads, 10 seconds.",
        "ALL_PROXY": "The proxy of all requests.",
        "HTTP_PROXY": "The proxy of requests over HTTP.",
        "HTTPS_PROXY": "The proxy of requests over HTTPS.",
        "NO_PROXY": "The hosts that are asked without a proxy.",
        "SSL_CERT_FILE": "The certificates that are trusted, a file.",
        "SSL_CERT_DIR": "The same, a folder.",
    },
    "threads": {
        "OMP_NUM_THREADS": "The most threads of numeric libraries.",
        "MKL_NUM_THREADS": "The same for MKL.",
        "OPENBLAS_NUM_THREADS": "The same for OpenBLAS.",
        "ORT_GQA_DISABLE_FLASH_ATTENTION": "With 0, onnxruntime tiles attention.",
        "ORT_DISABLE_TELEMETRY": "onnxruntime reports nothing; set by us.",
    },
    "memory": {
        "PYTHIA_QUANT_LOW_MEMORY": "With 1, too little memory or disk stops nothing.",
    },
    "signing": {
        "PYTHIA_QUANT_KEY_PASSWORD": "The password of a signer's key.",
        "PYTHIA_QUANT_IDENTITY_TOKEN": "Who signs, as an OpenID token.",
    },
}
"""What is said of each environment variable in --help, by what they concern; docs/environment.md says more."""

EVERY_VARIABLE = ("files", "output", "hub", "threads", "memory")
"""What most commands read."""


def example(*commands: str, codes: Mapping[str, str] | None = None, variables: Iterable[str] = ()) -> str:
    """Return the end of a command's help.

    Args:
        commands: examples.
        codes: the meanings of exit codes that few commands have.
        variables: what the environment variables concern that the command reads: files, output, hub, threads.
    """
    parts = ["Examples:" if len(commands) > 1 else "Example:", *(f"  [cyan]{command}[/]" for command in commands)]
    parts += ["", *_described("Exit codes:", dict(sorted((_EXIT_CODES | dict(codes or {})).items(), key=_by_number)))]
    groups = [f"  {group}: {', '.join(_VARIABLES[group])}" for group in variables]
    if groups:
        parts += ["", "Environment variables; [cyan]pythia-quant --help[/] says what each sets:", *groups]
    return "\n".join(parts)


def overview() -> str:
    """Return the end of the program's help: all exit codes, and all environment variables with what they set."""
    codes = _EXIT_CODES | {"1": "A defect of ours, with a traceback; or a question was answered no."}
    codes |= {"3": "A gate failed (run, bench), or something became worse (compare).", "4": GATE_CODES["4"]}
    every = {name: text for group in _VARIABLES.values() for name, text in group.items()}
    parts = _described("Exit codes:", dict(sorted(codes.items(), key=_by_number)))
    return "\n".join([*parts, "", *_described("Environment variables:", every)])


def wrapped(text: str) -> str:
    """Return the end of a help with its lines cut to the width of the output; what is cut off is indented further."""
    lines, columns = [], Console().width - 2  # typer's console has the same width, less two margins
    for line in text.splitlines():
        width = columns + len("[cyan]") * line.count("[cyan]")  # markup takes no column
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        cut = textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += cut or [""]
    return "\n".join(lines)


def _by_number(code: tuple[str, str]) -> int:
    return int(code[0].partition("+")[0])


def _described(heading: str, texts: Mapping[str, str]) -> list[str]:
    width = max(map(len, texts))
    return [heading, *(f"  {name:{width}}  {text}" for name, text in texts.items())]


@contextmanager
def help_output() -> Iterator[None]:
    """Leave out blanks at the ends of lines, as our consoles do, in help, which typer prints by one of its own."""
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
