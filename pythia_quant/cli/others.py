"""What others made, on the command line of bench: which of its arguments that is, and how it is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pythia_quant.core.console import progress_console
from pythia_quant.core.errors import ArgumentError
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.model.source_name import SCHEME

if TYPE_CHECKING:
    from pythia_quant.bench.rows import Options
    from pythia_quant.cli.jobs import Changes
    from pythia_quant.library.main_job import Outcome

# ruff: noqa: PLC0415 - what needs torch is imported when it is needed


def of_others(artifacts: list[str], source: str | None, revision: str | None, model: str | None) -> list[str]:
    """Return those of the arguments of bench that others made; nothing is downloaded but a manifest.

    Raises:
        ArgumentError: there are such, and no source is named; or there are none, and one is.
        ArtifactError: one is of no kind that is measured.
    """
    theirs = [artifact for artifact in artifacts if _is_of_others(artifact, named=source is not None)]
    if theirs and source is None:
        raise ArgumentError(
            "is not ours, and does not say what it was made from",
            where=theirs[0],
            hint="add --source MODEL, a hub repository, a folder or builtin:demo",
        )
    if theirs and model is not None:
        raise ArgumentError("is for artifacts of ours alone", where="--model", hint="--source says it for all")
    if not theirs and (source or revision):
        option = "--source" if source else "--revision"
        raise ArgumentError("is for what others made, and all of these are ours", where=option, hint="leave it out")
    return theirs


def _is_of_others(artifact: str, *, named: bool) -> bool:
    """Say whether others made it. What is no artifact at all is refused, or left to those who open ours.

    Args:
        artifact: a folder, a file, or a name on a hub.
        named: whether a source was named, which says that others made some of them.
    """
    from pythia_quant.artifacts.artifact import artifact_folders
    from pythia_quant.artifacts.foreign import unknown_kind
    from pythia_quant.artifacts.pull import is_ours
    from pythia_quant.artifacts.pull_foreign import is_kept, parse_named
    from pythia_quant.formats.table import recognize

    if artifact.startswith(SCHEME):
        return bool(parse_named(artifact).file) or is_kept(artifact) or not is_ours(artifact)
    path = Path(artifact)
    if (path / MANIFEST).exists() or (path.is_dir() and artifact_folders(path)):
        return False
    if path.exists() and recognize(path) is not None:
        return True
    if path.is_file() or (path.exists() and named):
        raise unknown_kind(path)
    return False


def measure_with_others(
    theirs: list[str],
    folders: list[Path],
    source: str,
    revision: str | None,
    changes: Changes,
    options: Options,
    out: Path,
) -> Outcome:
    """Fetch what others made, and measure it with the artifacts of ours in these folders; see :func:`audit`."""
    from pythia_quant.artifacts.pull_foreign import pull_foreign
    from pythia_quant.cli.jobs import audit
    from pythia_quant.core.progress import Steps

    places = []
    named = [place for place in theirs if place.startswith(SCHEME)]
    with Steps(max(1, len(named)), progress_console) as steps:
        for place in theirs:
            if place in named:
                with steps.step(f"opening {place}") as progress:
                    places.append((place, pull_foreign(place, progress)))
            else:
                places.append((place, Path(place)))
    return audit(places, folders, source, revision, progress_console, changes, options, out)
