import hashlib
import os
from pathlib import Path

import pytest

from pythia_quant.core import file_hashes
from pythia_quant.core.file_hashes import sha256, sha256_if_changed
from pythia_quant.core.files import cache_folder

LARGE = bytes(range(250)) * 4000


@pytest.fixture(autouse=True)
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Return the files that were read to be hashed; what was just written counts as settled."""
    monkeypatch.setenv("PYTHIA_QUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", -1)
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return sha256(path)

    monkeypatch.setattr(file_hashes, "sha256", counted)
    return read


def test_a_file_is_read_again_only_when_it_changed(reads: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    right = hashlib.sha256(LARGE).hexdigest()
    assert sha256_if_changed(path) == sha256_if_changed(path) == right
    assert len(reads) == 1
    before = path.stat()
    changed = LARGE.replace(b"\x07", b"\x08")
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert sha256_if_changed(path) == hashlib.sha256(changed).hexdigest(), "its time was set back, its size is the same"
    assert len(reads) == 2


def test_another_file_in_its_place_is_read(reads: list[Path], tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    for one, content in ((path, LARGE), (other, LARGE[::-1])):
        one.write_bytes(content)
        os.utime(one, ns=(1, 1))
        sha256_if_changed(one)
    other.replace(path)
    assert sha256_if_changed(path) == hashlib.sha256(LARGE[::-1]).hexdigest()


def test_a_file_in_a_folder_that_was_renamed_is_the_same(reads: list[Path], tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "file").write_bytes(LARGE)
    sha256_if_changed(tmp_path / "scratch" / "file")
    (tmp_path / "scratch").rename(tmp_path / "target")
    assert sha256_if_changed(tmp_path / "target" / "file") == hashlib.sha256(LARGE).hexdigest()
    assert len(reads) == 1


def test_a_damaged_entry_is_made_again(reads: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    right = sha256_if_changed(path)
    (entry,) = cache_folder("hashes").iterdir()
    entry.write_bytes(entry.read_bytes().replace(right.encode(), b"0" * 64))
    assert sha256_if_changed(path) == sha256_if_changed(path) == right
    assert len(reads) == 2


def test_a_small_file_is_always_read(reads: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"few")
    assert sha256_if_changed(path) == sha256_if_changed(path) == hashlib.sha256(b"few").hexdigest()
    assert len(reads) == 2


def test_a_file_that_was_changed_a_moment_ago_is_read_again(
    reads: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", 10**12)
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    assert sha256_if_changed(path) == sha256_if_changed(path)
    assert len(reads) == 2
