"""Files of a folder, and links that lead out of it."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pythia_quant.artifacts.artifact import Artifact, hash_files, open_artifact, verify_files
from pythia_quant.cli.options import is_from_a_hub
from pythia_quant.core.errors import ArtifactError, SourceError
from pythia_quant.core.foreign_files import own_file, snapshot_of

COMMIT = "0123456789" * 4


def in_cache(folder: Path) -> tuple[Path, Path]:
    """Return a snapshot of a hub cache below a folder that is called like one, and the blobs beside it."""
    repository = folder / "snapshots" / "models--me--x"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    (snapshot / "onnx").mkdir(parents=True)
    blobs.mkdir()
    return snapshot, blobs


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "deep").mkdir(parents=True)
    (folder / "file").write_text("x")
    (folder / "relative").symlink_to("file")
    (folder / "absolute").symlink_to(folder / "file")
    (folder / "deep" / "up").symlink_to("../file")
    (tmp_path / "alias").symlink_to(folder)
    for place in (folder, tmp_path / "alias"):
        for name in ("file", "relative", "absolute", "deep/up"):
            assert own_file(place, name, SourceError) == place / name
    assert own_file(folder, "other", SourceError) is None
    assert own_file(folder, "file/below", SourceError) is None


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "secret").write_text("mine")
    (folder / "relative").symlink_to("../secret")
    (folder / "absolute").symlink_to(tmp_path / "secret")
    (folder / "chain").symlink_to("relative")
    (folder / "linked").symlink_to("../others")
    for name in ("relative", "absolute", "chain", "linked/secret"):
        with pytest.raises(SourceError, match=f"{name} is a link that leads out of the folder"):
            own_file(folder, name, SourceError)


def test_what_is_no_file_is_refused_without_being_read(tmp_path: Path) -> None:
    (tmp_path / "nothing").symlink_to("absent")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, why in {
        "nothing": "to nothing",
        "circle": "to nothing",
        "pipe": "ordinary",
        "folder": "ordinary",
    }.items():
        with pytest.raises(ArtifactError, match=why):
            own_file(tmp_path, name, ArtifactError)


def test_the_hubs_cache_links_to_its_blobs_and_no_further(tmp_path: Path) -> None:
    snapshot, blobs = in_cache(tmp_path)
    (blobs / "abc").write_text("x")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    (snapshot / "onnx" / "model.onnx").symlink_to("../../../blobs/abc")
    shared = blobs.parent.parent / "blobs" / "ab"
    shared.mkdir(parents=True)
    (shared / "cd").write_text("x")
    (blobs / "shared").symlink_to("../../blobs/ab/cd")
    (snapshot / "shared").symlink_to("../../blobs/shared")
    (tmp_path / "alias").symlink_to(snapshot)
    for place in (snapshot, tmp_path / "alias"):
        for name in ("config.json", "onnx/model.onnx", "shared"):
            assert own_file(place, name, SourceError) == place / name
    (blobs.parent / "refs").mkdir()
    (blobs.parent / "refs" / "main").write_text("x")
    (snapshot / "ref").symlink_to("../../refs/main")
    with pytest.raises(SourceError, match="leads out"):
        own_file(snapshot, "ref", SourceError)
    assert snapshot_of(snapshot / "onnx" / "model.onnx") == snapshot == snapshot_of(snapshot)
    assert snapshot_of(tmp_path / "snapshots" / "x") is None
    assert is_from_a_hub(str(snapshot))  # so that results are not written beside it
    assert not is_from_a_hub(str(tmp_path))
    plain = tmp_path / "snapshots" / "mine"
    plain.mkdir()
    (plain / "config.json").symlink_to(blobs / "abc")
    with pytest.raises(SourceError, match="leads out"):
        own_file(plain, "config.json", SourceError)


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Artifact:
    return open_artifact(Path(shutil.copytree(made / "onnx-int8", tmp_path / "onnx-int8")))


def test_an_artifact_in_the_hubs_cache_verifies(artifact: Artifact, tmp_path: Path) -> None:
    snapshot, blobs = in_cache(tmp_path)
    for index, path in enumerate(sorted(path for path in artifact.folder.rglob("*") if path.is_file())):
        shutil.move(path, blobs / str(index))
        (snapshot / path.relative_to(artifact.folder)).symlink_to(blobs / str(index))
    verify_files(open_artifact(snapshot))


def test_what_a_download_of_a_published_artifact_has_beside_it_is_no_fault(artifact: Artifact) -> None:
    for name in ("README.md", "results.json", ".eval_results/lambada.yaml", ".cache/huggingface/download/x.metadata"):
        (artifact.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (artifact.folder / name).write_text("x")
    verify_files(artifact)
    (artifact.folder / "onnx" / "README.md").write_text("x")
    with pytest.raises(ArtifactError, match=r"onnx/README.md is not in the manifest"):
        verify_files(artifact)


def test_whatever_lies_in_an_artifact_and_is_not_in_its_manifest_is_found(artifact: Artifact, tmp_path: Path) -> None:
    folder = artifact.folder
    verify_files(artifact)
    (tmp_path / "secret").write_text("mine")
    server = socket.socket(socket.AF_UNIX)
    strange: dict[str, tuple[Callable[[Path], object], str]] = {
        "onnx/pythia_quant.json": (Path.touch, "is not in the manifest"),
        ".hidden": (Path.touch, "is not in the manifest"),
        "a/b/c": (lambda path: path.mkdir(parents=True), "a/b/c is an empty folder"),
        "linked": (lambda path: path.symlink_to("onnx"), "linked is a link to a folder"),
        "outside": (lambda path: path.symlink_to(tmp_path), "outside is a link to a folder"),
        "dangling": (lambda path: path.symlink_to("absent"), "dangling is a link to nothing"),
        "leaving": (lambda path: path.symlink_to(tmp_path / "secret"), "leads out of the folder"),
        "pipe": (os.mkfifo, "pipe is no ordinary file"),
        "s": (lambda path: server.bind(os.path.relpath(path)), "s is no ordinary file"),
    }
    for name, (make, why) in strange.items():
        make(folder / name)
        with pytest.raises(ArtifactError, match=why):
            verify_files(artifact)
        if name == "a/b/c":
            shutil.rmtree(folder / "a")
        else:
            (folder / name).unlink()
    deep = folder.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    with pytest.raises(ArtifactError, match="is an empty folder"):
        hash_files(folder)
    server.close()
