"""pythia-quant generate: continue a text."""

from __future__ import annotations

from typing import Annotated

import typer

from pythia_quant.cli.completion import complete_artifact
from pythia_quant.cli.options import AsJson, local_folders
from pythia_quant.core.console import EVERY_VARIABLE, example, out_console
from pythia_quant.core.text import printable, printable_json

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()


@commands.command(
    epilog=example(
        'pythia-quant generate artifacts/demo/builtin/onnx-int8 --prompt "import os"', variables=EVERY_VARIABLE
    )
)
def generate(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT",
            help="The folder of an artifact, or hf://owner/name@revision for one on the hub.",
            autocompletion=complete_artifact,
        ),
    ],
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="Continue this text.")],
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, max=10_000_000, help="Add N tokens at most.")
    ] = 64,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature",
            metavar="T",
            min=0.0,
            max=1000.0,
            help="Sample at this temperature. 0 takes the most likely token.",
        ),
    ] = 0.0,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="N", min=0, max=2**63 - 1, help="Sample with this seed, at a temperature above 0."
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Continue a text with an artifact, in the runtime that bench measures."""
    (folder,) = local_folders([artifact])
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.artifacts.generate import continue_text

    continuation = continue_text(open_artifact(folder), prompt, max_new_tokens, temperature, seed)
    if as_json:
        print(printable_json(continuation.model_dump_json(indent=1)))
    else:
        text = prompt + continuation.text
        # A model may write control characters, which a terminal would obey.
        print(printable(text) if out_console.is_terminal else text)
