from pathlib import Path

import pytest

from pythia_quant.artifact import scratch_folder, work_folder
from pythia_quant.errors import ArtifactError, BenchmarkError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "artifact"
    with scratch_folder(target) as folder:
        (folder / "file").write_text("new")
        assert not target.exists()
    assert (target / "file").read_text() == "new"

    with pytest.raises(OSError, match="full"), scratch_folder(target) as folder:  # noqa: PT012
        (folder / "file").write_text("newer")
        raise OSError("disk full")
    assert (target / "file").read_text() == "new"
    assert names(target.parent) == ["artifact"]

    with scratch_folder(target) as folder:
        (folder / "other").write_text("newer")
    assert names(target) == ["other"]
    assert names(target.parent) == ["artifact"]


def test_what_a_killed_run_left_is_cleared_away_and_what_it_moved_is_put_back(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    dead = tmp_path / ".artifact.partial-99999999"
    dead.mkdir()
    (dead / "half").touch()
    previous = tmp_path / ".artifact.previous"
    previous.mkdir()
    (previous / "old").touch()
    with pytest.raises(OSError, match="full"), scratch_folder(target):
        raise OSError("disk full")
    assert names(tmp_path) == ["artifact"]
    assert names(target) == ["old"]


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
