"""The folder a conversion leaves: opened, and compared with its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pythia_quant.errors import ArtifactError
from pythia_quant.formats import AnyVariant
from pythia_quant.hub_files import sha256
from pythia_quant.manifest import MANIFEST, FileRecord, Manifest
from pythia_quant.settings import VariantSettings


@dataclass(frozen=True)
class Artifact:
    """An opened artifact."""

    folder: Path
    manifest: Manifest
    settings: VariantSettings


def open_artifact(folder: Path) -> Artifact:
    """Read an artifact's manifest. Files are compared with it by :func:`verify_files`.

    Raises:
        ArtifactError: there is no manifest, or a newer version wrote it.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
        settings: VariantSettings = TypeAdapter(AnyVariant).validate_python(manifest.settings)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"there is no {MANIFEST}, so this is no artifact of ours", where=str(folder), hint="give a variant's folder"
        ) from error
    except (OSError, ValidationError) as error:
        reason = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else {"msg": str(error)}
        raise ArtifactError(
            f"cannot be read: {'.'.join(map(str, reason.get('loc', ())))} {reason['msg']}",
            where=str(path),
            hint="a newer pythia-quant may have written it, or it was edited; convert again",
        ) from error
    return Artifact(folder, manifest, settings)


def hash_files(folder: Path) -> dict[str, FileRecord]:
    """Return size and SHA-256 of every file below `folder` but the manifest, by relative path."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(folder).as_posix(): FileRecord(bytes=path.stat().st_size, sha256=sha256(path))
        for path in found
    }


def verify_files(artifact: Artifact) -> None:
    """Compare the files with the manifest.

    Raises:
        ArtifactError: a file is missing, altered, or not in the manifest.
    """
    found, listed = hash_files(artifact.folder), artifact.manifest.files
    where, again = str(artifact.folder), "convert again with --overwrite"
    for name in listed.keys() | found.keys():
        if name not in found:
            raise ArtifactError(f"the file {name} is missing", where=where, hint=again)
        if name not in listed:
            raise ArtifactError(f"the file {name} is not in the manifest", where=where, hint="move it elsewhere")
        if found[name] != listed[name]:
            raise ArtifactError(f"the file {name} was changed since the conversion", where=where, hint=again)
