"""The artifacts below a folder, and what is known of each without reading its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.core.errors import ArtifactError, BenchmarkError
from pythia_quant.core.file_hashes import known_sha256, sha256
from pythia_quant.core.foreign_files import MANIFEST, own_file
from pythia_quant.records.results import RESULTS, Results, Row, load_results

Integrity = Literal["verified", "altered", "not verified"]


def integrity(artifact: Artifact) -> Integrity:
    """Return what is known of an artifact's files; a large file is not read.

    Returns:
        ``altered`` if a file is missing or is not what the manifest says, ``verified`` if every file has the hash in
        the manifest and has not changed since it was hashed, otherwise ``not verified``.
    """
    unknown = False
    for name, file in artifact.manifest.files.items():
        try:
            path = own_file(artifact.folder, name, ArtifactError)
            if path is None or path.stat().st_size != file.bytes:
                return "altered"
            digest = known_sha256(path)
        except (ArtifactError, OSError):
            return "altered"
        if digest not in (None, file.sha256):
            return "altered"
        unknown = unknown or digest is None
    return "not verified" if unknown else "verified"


def newest_result(artifact: Artifact) -> tuple[Results, Row] | None:
    """Return the newest results beside an artifact that have a row for exactly its bytes, and that row; else None."""
    digest = sha256(artifact.folder / MANIFEST)
    matches = []
    for path in sorted(artifact.folder.parent.glob(f"{Path(RESULTS).stem}*.json")):
        try:
            results = load_results(path)
        except BenchmarkError:  # a damaged file, or one of a newer version: another may do
            continue
        matches += [(results, row) for row in results.rows if row.manifest_sha256 == digest]
    return max(matches, key=lambda pair: pair[0].created, default=None)
