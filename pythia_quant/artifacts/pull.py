"""Fetch artifacts from a hub by ``hf://owner/name@revision``. Each is downloaded once, and every file is hashed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pythia_quant.core.errors import HubError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.files import cache_folder, fresh_folder, target_lock
from pythia_quant.core.foreign_files import ADDED, MANIFEST
from pythia_quant.core.hub_client import check_name
from pythia_quant.core.hub_files import commit_of, fetch, forget
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model.source_name import SCHEME
from pythia_quant.records.manifest import FileRecord, read_manifest


def pull(artifact: str, progress: Progress = SILENT) -> Path:
    """Return the folder of an artifact in the cache. If the artifact is not there, download it first.

    The folder has the manifest, the files that it lists, and what its signer has added. It is complete or absent.

    Args:
        artifact: ``hf://owner/name``, or ``hf://owner/name@revision`` for another revision than ``main``.
        progress: receives how far the download is.

    Raises:
        HubError: the name is not valid, the repository has no artifact of ours, or a file is missing or differs from
            the manifest.
        SourceError: the hub cannot be asked, or a download is damaged.
    """
    repo_id, _, revision = artifact.removeprefix(SCHEME).rstrip("/").partition("@")
    check_name(repo_id, artifact)
    manifest_path = fetch(repo_id, MANIFEST, revision or "main")
    if manifest_path is None:
        raise HubError(f"there is no {MANIFEST}, so this is no artifact of ours", where=artifact)
    manifest = read_manifest(manifest_path, HubError, f"{artifact}/{MANIFEST}")
    commit = commit_of(manifest_path)
    folder = cache_folder("artifacts") / repo_id.replace("/", "--") / commit
    if folder.is_dir():
        return folder
    with target_lock(folder, wait=True):
        if folder.is_dir():  # another process has downloaded it meanwhile
            return folder
        with fresh_folder(folder) as scratch:
            place_file(manifest_path, scratch / MANIFEST)
            for index, (name, file) in enumerate(manifest.files.items()):
                progress.step(f"downloading {name}", index, len(manifest.files))
                place_file(_download(repo_id, name, commit, file, progress), scratch / name)
            for name in ADDED:
                if (path := fetch(repo_id, name, commit)) is not None:
                    place_file(path, scratch / name)
    return folder


def is_ours(artifact: str) -> bool:
    """Say whether a repository has a manifest of ours; only that is downloaded. For the errors see :func:`pull`."""
    repo_id, _, revision = artifact.removeprefix(SCHEME).rstrip("/").partition("@")
    check_name(repo_id, artifact)
    return fetch(repo_id, MANIFEST, revision or "main") is not None


def _download(repo_id: str, name: str, commit: str, file: FileRecord, progress: Progress) -> Path:
    where = f"{repo_id}@{commit}"
    path = fetch(repo_id, name, commit, progress=progress, size=file.bytes)
    if path is None:
        raise HubError(f"the file {name} is missing", where=where, hint="it was published incompletely or altered")
    if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
        forget(path)
        raise HubError(
            f"{name} is not what the manifest says",
            where=where,
            hint="run again: if the download was damaged, it is repeated; else the file was altered on the hub",
        )
    return path


def place_file(cached: Path, path: Path) -> None:
    """Put a file of the hub's cache into a folder, as a hard link if the disk can; else copy it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(cached.resolve(), path)
    except OSError:
        shutil.copyfile(cached, path)
