"""Checking and running artifacts."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from pythia_quant.commands.options import Artifacts, AsJson, local_folders
from pythia_quant.console import example, out_console
from pythia_quant.printable import printable, printable_json

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()


@commands.command(epilog=example("pythia-quant verify artifacts/demo/builtin/onnx-int8"))
def verify(artifacts: Artifacts) -> None:
    """Check artifacts: the manifest, the hash of every file, that they load, and that they compute what they hold."""
    from pythia_quant.artifact import open_artifact, verify_files
    from pythia_quant.conversion import check_again

    for name, folder in zip(artifacts, local_folders(artifacts), strict=True):
        artifact = open_artifact(folder)
        verify_files(artifact)
        record = check_again(artifact)
        out_console.print(
            f"[bold]{escape(name)}[/]: {len(artifact.manifest.files)} files as in the manifest; "
            f"{record.runtime} runs them, KL from the weights in fp32 {record.kl_as_run:.1e} nat",
            soft_wrap=True,
        )
    out_console.print(
        "This proves integrity, not origin: whoever changes an artifact can write a manifest that agrees.",
        soft_wrap=True,
    )


@commands.command(epilog=example('pythia-quant generate artifacts/demo/builtin/onnx-int8 --prompt "def main("'))
def generate(
    artifact: Annotated[str, typer.Argument(help="Folder that convert has left, or hf://owner/name@revision.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, max=10_000_000, help="The most tokens to add.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, max=1000.0, help="0 takes the most likely token.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the sampling, at a temperature above 0.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Continue a text with an artifact, in the runtime that bench measures."""
    (folder,) = local_folders([artifact])
    from pythia_quant.generation import continue_text

    continuation = continue_text(folder, prompt, max_new_tokens, temperature, seed)
    if as_json:
        print(printable_json(continuation.model_dump_json(indent=1)))
    else:
        text = prompt + continuation.text
        # A model may write anything; on a terminal that must not be obeyed.
        print(printable(text) if out_console.is_terminal else text)
