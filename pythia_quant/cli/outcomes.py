"""What commands print of artifacts that they made and of what they measured, for people or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from pythia_quant.core.console import out_console, output_width, print_json

if TYPE_CHECKING:
    from datetime import datetime

    from pythia_quant.artifacts.artifact import Artifact
    from pythia_quant.library.main_job import Outcome
    from pythia_quant.records.results import Results


def artifact_data(artifact: Artifact) -> dict[str, object]:
    """Return what JSON says of an artifact, in every command in the same words."""
    manifest, source = artifact.manifest, artifact.manifest.source
    return {
        "folder": str(artifact.folder),
        "variant": manifest.variant,
        "model": source.model,
        "revision": source.revision,
        "commit": source.commit,
        "bytes_on_disk": manifest.bytes_on_disk,
        "bits_per_weight": manifest.bits_per_weight,
    }


def conversion_data(artifact: Artifact, began: datetime) -> dict[str, object]:
    """Return :func:`artifact_data`, and whether the artifact was there before the command `began`."""
    return artifact_data(artifact) | {"was_there": artifact.manifest.created < began}


def print_conversion(artifact: Artifact, began: datetime) -> None:
    """Print a line that says what :func:`conversion_data` says."""
    manifest = artifact.manifest
    size = f"{manifest.bits_per_weight:.2f} bits a weight, {manifest.bytes_on_disk / 1e6:.1f} MB on disk"
    there = " is there already" if manifest.created < began else ""
    out_console.print(f"[bold]{manifest.variant}[/]{there}: {size}, in {escape(str(artifact.folder))}", soft_wrap=True)


def print_results_json(results: list[Results]) -> None:
    """Print the results, or a list of them if there are several."""
    data = [one.model_dump(mode="json") for one in results]
    print_json(data if len(data) > 1 else data[0])


def print_outcome(outcome: Outcome, *, explain: bool) -> None:
    """Print the table of a run, and where its artifacts and its result file are."""
    from pythia_quant.report.terminal import print_results  # noqa: PLC0415 - --help answers at once

    print_results(outcome.results, out_console, width=output_width(), explain=explain)
    where = f"Artifacts and {outcome.path.name} are in {outcome.path.parent}"
    out_console.print(f"\n{where}", markup=False, soft_wrap=True)
