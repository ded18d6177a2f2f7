"""pythia-quant ls: the artifacts below a folder."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pythia_quant.cli.options import AsJson
from pythia_quant.core.console import example, out_console, print_error, print_json
from pythia_quant.core.errors import ArtifactError

# ruff: noqa: PLC0415 - --help answers at once

commands = typer.Typer()

_DRIFT = {"kl": "KL, mnat", "ppl_drift": "ppl drift, %"}


@commands.command(
    "ls", epilog=example("pythia-quant ls artifacts", "pythia-quant ls --json", variables=["files", "output"])
)
def list_artifacts(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to look in, with all below it.")] = Path(
        "artifacts"
    ),
    as_json: AsJson = False,
) -> None:
    """List the artifacts below a folder: source, size, drift, and whether they are verified.

    Drift is that of the newest result file beside an artifact. An artifact counts as verified if its files have not
    changed since their hashes were last compared with the manifest; large files are not read for this list.
    """
    if not folder.is_dir():
        raise ArtifactError(
            "is no folder", where=str(folder), hint="give one that run or convert has left artifacts in"
        )
    from pythia_quant.artifacts.artifact import artifact_folders

    entries, unreadable = [], 0
    for path in artifact_folders(folder):
        try:
            entries.append(_entry(path))
        except ArtifactError as error:
            print_error(error)
            unreadable += 1
    if as_json:
        print_json([vars(entry) for entry in entries])
    elif entries:
        out_console.print(_table(entries, folder))
    else:
        out_console.print(f"There are no artifacts below {escape(str(folder))}.", soft_wrap=True)
    if unreadable:
        raise typer.Exit(2)


@dataclass(frozen=True)
class _Entry:
    """One artifact. `drift` has a value with the ends of its 95 % interval for each metric that was measured."""

    folder: str
    variant: str
    model: str
    revision: str
    commit: str | None
    bytes_on_disk: int
    bits_per_weight: float
    drift: dict[str, dict[str, float]]
    measured: str | None
    files: str


def _entry(folder: Path) -> _Entry:
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.artifacts.listing import integrity, newest_result
    from pythia_quant.bench.metrics import METRICS

    artifact = open_artifact(folder)
    manifest, newest = artifact.manifest, newest_result(artifact)
    drift = {}
    for key in _DRIFT if newest else ():
        value = METRICS[key].value_of(newest[1], newest[0]) if newest else None
        if value and all(map(math.isfinite, value)):  # JSON has no other numbers
            drift[key] = value._asdict()
    return _Entry(
        str(folder), manifest.variant, manifest.source.model, manifest.source.revision, manifest.source.commit,
        manifest.bytes_on_disk, manifest.bits_per_weight, drift, newest[0].created.isoformat() if newest else None,
        integrity(artifact),
    )  # fmt: skip


def _table(entries: list[_Entry], folder: Path) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("artifact", "source", "MB", "bits/weight", *_DRIFT.values(), "files"):
        left = heading in ("artifact", "source", "files")
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for entry in entries:
        revision = "" if entry.revision in ("main", "builtin", "local") else f" @ {entry.revision}"
        source = entry.model if entry.commit else entry.model.rpartition("/")[2]
        place = os.path.relpath(entry.folder, folder)
        table.add_row(
            escape(place if place != "." else Path(entry.folder).name), escape(source + revision),
            f"{entry.bytes_on_disk / 1e6:,.1f}", f"{entry.bits_per_weight:.2f}", *_drift_cells(entry), entry.files,
        )  # fmt: skip
    return table


def _drift_cells(entry: _Entry) -> list[str]:
    """Return each metric's value with half the width of its interval; a dash if there is none."""
    values = [entry.drift.get(key) for key in _DRIFT]
    return [
        "–" if value is None else f"{value['value']:,.2f} ± {(value['high'] - value['low']) / 2:,.2f}"
        for value in values
    ]
