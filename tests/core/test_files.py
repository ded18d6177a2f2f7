import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pythia_quant.core.errors import ArtifactError, BenchmarkError, StorageError, storing
from pythia_quant.core.files import (
    cache_folder,
    recover,
    replace_file,
    scratch_folder,
    target_lock,
    temporary_folder,
    work_folder,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "artifact"
    with scratch_folder(target) as folder:
        (folder / "file").write_text("new")
        assert not target.exists()
    assert (target / "file").read_text() == "new"

    with pytest.raises(RuntimeError, match="fails"), scratch_folder(target) as folder:  # noqa: PT012
        (folder / "file").write_text("newer")
        raise RuntimeError("fails")
    assert (target / "file").read_text() == "new"
    assert names(target.parent) == ["artifact"]

    with scratch_folder(target) as folder:
        (folder / "other").write_text("newer")
    assert names(target) == ["other"]
    assert names(target.parent) == ["artifact"]


@pytest.mark.parametrize(
    "number", [os.getpid(), 1, 99999999, "of-an-older-version"], ids=["ours", "1", "99999999", "old"]
)
def test_what_a_killed_run_left_is_cleared_away_whatever_its_name(tmp_path: Path, number: object) -> None:
    """In a container every process may have the same number."""
    target = tmp_path / "artifact"
    dead = tmp_path / f".artifact.partial-{number}"
    dead.mkdir()
    (dead / "half").touch()
    previous = tmp_path / ".artifact.previous"
    previous.mkdir()
    (previous / "old").touch()
    with pytest.raises(RuntimeError), scratch_folder(target):
        raise RuntimeError
    assert names(tmp_path) == ["artifact"]
    assert names(target) == ["old"]


def test_what_a_killed_run_moved_is_put_back_before_anybody_looks(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    (tmp_path / ".artifact.previous").mkdir()
    (tmp_path / ".artifact.work-0123").mkdir()
    (tmp_path / ".artifact.partial-7").mkdir()
    with target_lock(target):
        recover(target)  # somebody is at it
        assert not target.exists()
    recover(target)
    assert names(tmp_path) == ["artifact"]
    recover(tmp_path / "none" / "artifact")
    assert names(tmp_path) == ["artifact"]


def test_work_of_other_settings_is_removed_unless_a_process_is_at_it(tmp_path: Path) -> None:
    target = tmp_path / "variant"
    with work_folder(target, "one") as busy:
        (busy / "solved").write_text("hours")
        with pytest.raises(ArtifactError, match="another process"), work_folder(target, "two"):
            pass
        assert (busy / "solved").exists()
        raised = BenchmarkError("a child process was killed")
        with pytest.raises(BenchmarkError), work_folder(tmp_path / "other", "one") as kept:
            raise raised
    assert kept.exists()
    with work_folder(tmp_path / "other", "two"):
        assert not kept.exists()
    assert not list(tmp_path.iterdir())


def test_one_process_at_a_time_makes_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "variant"
    with scratch_folder(target):
        with pytest.raises(ArtifactError, match="another process is at work on it"), scratch_folder(target):
            pass
        assert len(names(tmp_path)) == 2, "the folder and its lock are still there"
    assert names(tmp_path) == ["variant"]


def test_a_file_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    (tmp_path / ".results.json.partial").write_text("half")
    replace_file(path, "one\n")
    replace_file(path, "two\n", backup_name=lambda path: path.with_name("earlier.json"))
    assert (path.read_bytes(), (tmp_path / "earlier.json").read_text()) == (b"two\n", "one\n")
    assert names(tmp_path) == ["earlier.json", "results.json"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_or_read_only_disk_is_one_sentence_and_nothing_is_left(small_disk: Path) -> None:
    target = small_disk / "artifact"
    full = "cannot be written: the disk is full"
    with pytest.raises(StorageError, match=f"^{target}: {full}"), scratch_folder(target) as folder:
        (folder / "weights").write_bytes(bytes(100_000))
    with pytest.raises(StorageError, match=f"^{small_disk}/file: {full}"):
        replace_file(small_disk / "file", "x" * 100_000)
    assert names(small_disk) == []
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for part in (scratch_folder, target_lock):
        with pytest.raises(StorageError, match="the disk is read-only"), part(target):
            pass
    recover(target)


def test_a_file_in_the_way_and_a_name_too_long(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a file is where a folder is needed"), scratch_folder(tmp_path / "file/x/y"):
        pass
    with pytest.raises(StorageError, match="its name is too long"), scratch_folder(tmp_path / ("x" * 300)):
        pass
    refused = "cannot be written|none can be made there"  # by filelock's version
    with pytest.raises(StorageError, match=refused), scratch_folder(Path("/proc/x")):
        pass


KILLED = """
    import sys, time
    from pathlib import Path
    from pythia_quant.core.files import scratch_folder, temporary_folder
    with temporary_folder() as temporary, scratch_folder(Path(sys.argv[1])) as folder:
        (temporary / "half").touch()
        print(folder.name, temporary, flush=True)
        time.sleep(60)
"""


def test_folders_are_kept_while_their_process_lives_and_removed_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    target = tmp_path / "made" / "artifact"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(target)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    scratch, temporary = child.stdout.readline().split()
    with temporary_folder():
        assert Path(temporary).is_dir()
    with pytest.raises(ArtifactError, match="another process"), scratch_folder(target):
        pass
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert (target.parent / scratch).is_dir()
    with temporary_folder() as own, scratch_folder(target):
        assert names(tmp_path) == sorted(["made", own.name])
    assert (names(target.parent), names(tmp_path)) == (["artifact"], ["made"])


def test_temporary_folders_that_may_be_anothers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    young, old, elsewhere = tmp_path / "pythia-quant-young", tmp_path / "pythia-quant-old", tmp_path / "elsewhere"
    for folder in (young, old, elsewhere):
        folder.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    (tmp_path / "pythia-quant-link").symlink_to(elsewhere)
    with temporary_folder():
        assert young.is_dir()
        assert not old.exists()
    assert names(tmp_path) == ["elsewhere", "pythia-quant-link", "pythia-quant-young"]


def test_no_place_for_temporary_files_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(StorageError, match="no place for temporary files"), temporary_folder():
        pass


def test_a_user_without_a_home_is_told_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is started with ``--user`` and a number; Path.home() raises a RuntimeError there."""
    for name in ("PYTHIA_QUANT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321_987)
    with pytest.raises(StorageError, match=r"no home folder(.|\n)*PYTHIA_QUANT_CACHE"):
        cache_folder("texts")
    monkeypatch.setenv("PYTHIA_QUANT_CACHE", "/kept")
    assert cache_folder("texts") == Path("/kept/texts")


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a folder at which a disk is mounted, as a container's volume is: the system says the same of both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").touch()
    with pytest.raises(StorageError, match="or it is the current folder"), scratch_folder(Path()):
        pass
    assert names(tmp_path) == ["kept"]


def test_a_folder_that_cannot_be_made_or_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="/proc/x: there is no such file or folder"), storing("/proc/x"):
        Path("/proc/x").mkdir()
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(StorageError, match=r"^the current folder: there is no such"), storing(""):
        Path("x").absolute()
    monkeypatch.chdir(tmp_path)
