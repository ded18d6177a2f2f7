"""Checking and running artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.commands.options import Artifacts, AsJson, local_folders
from pythia_quant.core.console import example, out_console, progress_console
from pythia_quant.core.progress import Report, Steps
from pythia_quant.core.text import printable, printable_json

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()


@commands.command(
    epilog=example(
        "pythia-quant verify artifacts/demo/builtin/onnx-int8",
        "pythia-quant verify hf://me/pythia-160m-gptq-int4 --model EleutherAI/pythia-160m",
    )
)
def verify(
    artifacts: Artifacts,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="ID|FOLDER", help="The source, to compare with; unless it is at hand."),
    ] = None,
) -> None:
    """Check artifacts: the manifest, the hash of every file, that they load, and that they compute what they hold.

    Where the source is at hand, or named, their weights are compared with its own.
    """
    folders, lines, compared = local_folders(artifacts), [], True
    try:
        with Steps(len(folders), progress_console) as steps:
            for name, folder in zip(artifacts, folders, strict=True):
                with steps.step(f"verifying {name}") as report:
                    found, of_source = _verify(folder, model, report)
                lines += [f"{name}: {found}", *([of_source] if of_source else [])]
                compared = compared and bool(of_source)
    finally:  # what was found before one that is refused
        for line in lines:
            out_console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if not compared:
        out_console.print(
            "This proves integrity, not origin: whoever changes an artifact can write a manifest that agrees. Give the "
            "source with --model, and weights are compared with its own.",
            soft_wrap=True,
        )


def _verify(folder: Path, model: str | None, report: Report) -> tuple[str, str]:
    """Return what was found of an artifact by itself, and beside its source; the latter is empty without one."""
    from pythia_quant.artifacts.artifact import open_artifact, verify_files
    from pythia_quant.artifacts.check import check_again
    from pythia_quant.artifacts.origin import compare_with, named_source, source_at_hand

    artifact = open_artifact(folder)
    report("opening its source", 0, 1)
    source = source_at_hand(artifact) if model is None else named_source(artifact, model)
    report("hashing its files", 0, 1)
    verify_files(artifact)
    report("running it", 0, 1)
    record = check_again(artifact)
    found = (
        f"{len(artifact.manifest.files)} files as in the manifest; {record.runtime} runs them, KL from the weights in "
        f"fp32 {record.kl_as_run:.1e} nat"
    )
    if source is None:
        return found, ""
    closeness = compare_with(artifact, source, report)
    return found, f"  tokenizer and weights are those of {model or artifact.manifest.source.model}: {closeness}"


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
    from pythia_quant.artifacts.generate import continue_text

    continuation = continue_text(folder, prompt, max_new_tokens, temperature, seed)
    if as_json:
        print(printable_json(continuation.model_dump_json(indent=1)))
    else:
        text = prompt + continuation.text
        # A model may write anything; on a terminal that must not be obeyed.
        print(printable(text) if out_console.is_terminal else text)
