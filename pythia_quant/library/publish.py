"""Prepare a publication of an artifact that is open, or named by its folder as text."""

from __future__ import annotations

from pathlib import Path

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.publishing import publication
from pythia_quant.publishing.publication import Publication, Target


def prepare_publication(
    artifact: str | Path | Artifact,
    target: str | Target,
    *,
    results: str | Path | None = None,
    base: str | None = None,
    despite_gate: str = "",
) -> Publication:
    """Check an artifact, its measurement and its gates, and make its card; nothing is sent.

    ``make_plan`` then compares the publication with its repository, and ``publish`` carries the plan out.

    Args:
        artifact: the artifact or its folder.
        target: the repository, ``owner/name``, or a :class:`Target`, which also names a branch.
        results: the result file; by default the latest one beside the artifact with a row for it.
        base: the repository that the source folder is a copy of, ``owner/name`` or ``owner/name@revision``; ``none``
            to publish without a name.
        despite_gate: why the artifact is published though a gate did not pass.

    Raises:
        ArtifactError: the artifact was altered.
        BenchmarkError: there is no result for this artifact.
        HubError: a gate did not pass, or the repository of the source is not the one that was quantized.
    """
    folder = artifact.folder if isinstance(artifact, Artifact) else Path(artifact).expanduser()
    where = Target(target) if isinstance(target, str) else target
    path = None if results is None else Path(results)
    return publication.prepare_publication(folder, where, results=path, base=base, despite_gate=despite_gate)
