"""Compare an artifact's weights and tokenizer with those of the source that its manifest names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError

from pythia_quant.artifact import Artifact
from pythia_quant.closeness import Closeness, compare
from pythia_quant.core.errors import ArtifactError, PythiaQuantError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.foreign_files import own_file
from pythia_quant.core.progress import Report, silent
from pythia_quant.formats.table import format_of
from pythia_quant.model.source import open_source, open_weights
from pythia_quant.model.source_name import DEMO, repository_of
from pythia_quant.model.tokenizer import TOKENIZER, uncut
from pythia_quant.model.weights import WeightReader


@dataclass(frozen=True)
class Original:
    """What an artifact was made from: the weights, and the folder they lie in with their tokenizer."""

    weights: WeightReader
    folder: Path


def source_at_hand(artifact: Artifact) -> Original | None:
    """Return the source that an artifact's manifest names, or None when it is not on this machine. No network.

    The source may be the demo model, the folder that was converted, or a snapshot in the hub's cache. A source that
    cannot be read, or has other weights now, counts as missing.
    """
    recorded = artifact.manifest.source
    if recorded.model == DEMO:
        source = open_source(DEMO)
        return Original(source.weights, source.folder) if source.sha256 == recorded.sha256 else None
    folder = Path(recorded.model) if recorded.commit is None else _cached(recorded.model, recorded.commit)
    if folder is None:
        return None
    try:
        files = {name: own_file(folder, name, ArtifactError) for name in recorded.sha256}
        if any(path is None or sha256(path) != recorded.sha256[name] for name, path in files.items()):
            return None
        return Original(open_weights(folder), folder)
    except (PythiaQuantError, OSError):
        return None


def named_source(artifact: Artifact, model: str) -> Original:
    """Open the model that the user names as the source of an artifact.

    Raises:
        ArtifactError: the manifest names other weights.
        SourceError: the model cannot be opened.
    """
    recorded = artifact.manifest.source
    same = recorded.commit is not None and repository_of(model) == recorded.model
    source = open_source(model, recorded.commit if same and recorded.commit else "main")
    if source.sha256 != recorded.sha256:
        raise ArtifactError(
            f"was made from other weights than those of {model}, its manifest says: "
            f"{recorded.model} at {recorded.commit or recorded.revision}",
            where=str(artifact.folder),
            hint="give with --model the checkpoint that it was made from",
        )
    return Original(source.weights, source.folder)


def compare_with(artifact: Artifact, source: Original, report: Report = silent) -> Closeness:
    """Compare an artifact's tokenizer and weights with a source's; see :func:`pythia_quant.closeness.compare`.

    Raises:
        ArtifactError: they are not the source's, rounded; or they cannot be read.
        SourceError: the source cannot be read.
    """
    entry = format_of(artifact.settings)
    if uncut(artifact.folder / TOKENIZER) != uncut(source.folder / TOKENIZER):
        raise ArtifactError(
            f"{TOKENIZER} is not the source's",
            where=str(artifact.folder),
            hint="it was changed, or made from another model",
        )
    try:
        return compare(
            entry.open_weights(artifact.folder),
            source.weights,
            artifact.settings,
            equalized=entry.equalizes,
            corrected=artifact.settings.calibrates or artifact.settings.takes_codes_of() is not None,
            report=report,
        )
    except ArtifactError as error:
        raise ArtifactError(error.what, where=error.where or str(artifact.folder), hint=error.hint) from error


def _cached(repo_id: str, commit: str) -> Path | None:
    try:
        path = huggingface_hub.try_to_load_from_cache(repo_id, "config.json", revision=commit)
    except HFValidationError:
        return None
    return Path(path).parent if isinstance(path, str) else None
