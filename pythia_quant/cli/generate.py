"""pythia-quant generate: continue a text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pythia_quant.cli.completion import complete_artifact
from pythia_quant.cli.options import AsJson, local_folders
from pythia_quant.core.console import EVERY_VARIABLE, example, out_console
from pythia_quant.core.errors import ArgumentError
from pythia_quant.core.text import printable, printable_json

if TYPE_CHECKING:
    from pathlib import Path

    from pythia_quant.artifacts.generator import Generator
    from pythia_quant.artifacts.pieces import Wish

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()
_MOST_BYTES = 10_000_000
"""The longest prompt that is read from standard input, bytes: more than any model's context."""


Artifact = Annotated[
    str,
    typer.Argument(
        metavar="ARTIFACT",
        help="The folder of an artifact, or hf://owner/name@revision for one on the hub.",
        autocompletion=complete_artifact,
    ),
]
_Prompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="TEXT", help="Continue this text. - takes standard input, as it is."),
]
_Count = Annotated[
    int, typer.Option("--max-new-tokens", metavar="N", min=1, max=10_000_000, help="Add N tokens at most.")
]
_Temperature = Annotated[
    float,
    typer.Option(
        "--temperature", metavar="T", min=0, max=1000, help="Sample at this temperature. 0 takes the most likely token."
    ),
]
_TopK = Annotated[
    int, typer.Option("--top-k", metavar="N", min=0, help="Sample among the N most likely tokens; 0 for all.")
]
_TopP = Annotated[
    float,
    typer.Option(
        "--top-p", metavar="P", help="Sample among the most likely tokens that have a probability of P together."
    ),
]
_Seed = Annotated[
    int,
    typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Sample with this seed, at a temperature above 0."),
]
_Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End before this text. Repeat the option for several."),
]
_Interactive = Annotated[
    bool, typer.Option("--interactive", "-i", help="Continue what you type, line by line, until Ctrl-D.")
]


@commands.command(
    epilog=example(
        'pythia-quant generate artifacts/demo/builtin/onnx-int8 --prompt "import os"', variables=EVERY_VARIABLE
    )
)
def generate(
    artifact: Artifact,
    prompt: _Prompt = None,
    max_new_tokens: _Count = 64,
    temperature: _Temperature = 0.0,
    top_k: _TopK = 0,
    top_p: _TopP = 1.0,
    seed: _Seed = 0,
    stop: _Stop = None,
    interactive: _Interactive = False,
    as_json: AsJson = False,
) -> None:
    """Continue a text with an artifact, in the runtime that bench measures. The text is printed as it is made."""
    if interactive and as_json:
        raise ArgumentError("contradict each other", where="--interactive and --json", hint="give one of them")
    if prompt is None and not interactive:
        raise ArgumentError("is missing", where="--prompt", hint="give a text, - for standard input, or --interactive")
    if prompt == "-" and interactive:
        raise ArgumentError("both read standard input", where="--prompt - and --interactive", hint="give one of them")
    if not 0 < top_p <= 1:
        raise ArgumentError(f"is {top_p}; it must be above 0 and at most 1", where="--top-p")
    text = _read_input() if prompt == "-" else prompt
    (folder,) = local_folders([artifact])
    from pythia_quant.artifacts.pieces import Wish
    from pythia_quant.runtimes.sampling import Sampling

    wish = Wish(max_new_tokens, Sampling(temperature, top_k, top_p, seed), tuple(stop or ()))
    if interactive:
        _talk(folder, text or "", wish)
    elif as_json:
        _print_json(folder, text or "", wish)
    else:
        _print_stream(folder, text or "", wish)


def _print_json(folder: Path, prompt: str, wish: Wish) -> None:
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.artifacts.generate import continue_text

    continuation = continue_text(open_artifact(folder), prompt, wish)
    print(printable_json(continuation.model_dump_json(indent=1)))


def _print_stream(folder: Path, prompt: str, wish: Wish) -> None:
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.artifacts.generate import stream_text

    parts = stream_text(open_artifact(folder), prompt, wish)
    _show(prompt)
    for part in parts:
        _show(part)
    _show("\n")


def _talk(folder: Path, text: str, wish: Wish) -> None:
    """Continue a text that grows by what the user types and by what the model adds."""
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.artifacts.generator import Generator
    from pythia_quant.core.console import print_error
    from pythia_quant.core.errors import ArtifactError

    generator = Generator(open_artifact(folder))
    if sys.stdin.isatty():
        print("Type a text; it is continued. An empty line goes on, /reset begins anew, Ctrl-D ends.", file=sys.stderr)
    if text:
        _show(text)
        text += _answer(generator, text, wish)
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError:
            raise _not_utf8() from None
        if not line:
            return
        if line.strip() == "/reset":
            text = ""
            continue
        longer = text + line.removesuffix("\n")
        try:
            text = longer + _answer(generator, longer, wish)
        except ArtifactError as error:
            print_error(error)
            print("  /reset begins anew", file=sys.stderr)


def _answer(generator: Generator, text: str, wish: Wish) -> str:
    """Print and return the continuation of a text."""
    parts = []
    for piece in generator.stream(generator.encode(text), wish):
        _show(piece.text)
        parts.append(piece.text)
    _show("\n")
    return "".join(parts)


def _show(text: str) -> None:
    # A model may write control characters, which a terminal would obey.
    print(printable(text) if out_console.is_terminal and text != "\n" else text, end="", flush=True)


def _read_input() -> str:
    content = sys.stdin.buffer.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ArgumentError(f"has more than {_MOST_BYTES:,} bytes", where="standard input", hint="give less text")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _not_utf8() from None


def _not_utf8() -> ArgumentError:
    return ArgumentError("is not UTF-8", where="standard input", hint="give it in that encoding")
