"""pythia-quant verify: check artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.cli.options import Artifacts, local_folders
from pythia_quant.core.console import example, out_console, progress_console
from pythia_quant.core.progress import Progress, Steps
from pythia_quant.core.text import printable

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
        typer.Option("--model", metavar="ID|FOLDER", help="The source to compare with, if it is not on this machine."),
    ] = None,
) -> None:
    """Check artifacts: the manifest, the hash of every file, that they load, and that they compute what they hold.

    If the source is on this machine, or named, the artifact's weights are compared with the source's.
    """
    folders, lines, compared = local_folders(artifacts), [], True
    try:
        with Steps(len(folders), progress_console) as steps:
            for name, folder in zip(artifacts, folders, strict=True):
                with steps.step(f"verifying {name}") as progress:
                    integrity, origin = _verify(folder, model, progress)
                lines += [f"{name}: {integrity}", *([origin] if origin else [])]
                compared = compared and bool(origin)
    finally:  # also prints what is known of the artifacts before one that is refused
        for line in lines:
            out_console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if not compared:
        out_console.print(
            "This proves integrity, not origin: whoever changes an artifact can write a manifest that agrees. Give the "
            "source with --model, and weights are compared with its own.",
            soft_wrap=True,
        )


def _verify(folder: Path, model: str | None, progress: Progress) -> tuple[str, str]:
    """Verify an artifact; return a sentence on its integrity, and one on its origin, empty without a source."""
    from pythia_quant.artifacts.artifact import open_artifact, verify_files
    from pythia_quant.artifacts.check import check_again
    from pythia_quant.artifacts.verify import compare_with, find_local_source, open_named_source
    from pythia_quant.core.file_hashes import sha256_anew

    artifact = open_artifact(folder)
    progress.step("opening its source", 0, 1)
    source = find_local_source(artifact) if model is None else open_named_source(artifact, model)
    progress.step("hashing its files", 0, 1)
    verify_files(artifact, sha256_anew)
    progress.step("running it", 0, 1)
    record = check_again(artifact)
    integrity = (
        f"{len(artifact.manifest.files)} files as in the manifest; {record.runtime} runs them, KL from the weights in "
        f"fp32 {record.kl_as_run:.1e} nat"
    )
    if source is None:
        return integrity, ""
    closeness = compare_with(artifact, source, progress)
    return integrity, f"  tokenizer and weights are those of {model or artifact.manifest.source.model}: {closeness}"
