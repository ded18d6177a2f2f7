import json
import os
import time
from pathlib import Path
from typing import get_args

import pytest
from filelock import FileLock
from program import refuse, succeed

from pythia_quant.core.cache_content import KINDS, clean, entries
from pythia_quant.core.files import Cache, CacheKind, target_lock

DAY = 86_400


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PYTHIA_QUANT_CACHE", str(tmp_path))
    return tmp_path


def aged(path: Path, days: float) -> Path:
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def made(path: Path, days: float) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_bytes(bytes(1000))
    return aged(path, days)


def test_every_kind_of_entry_is_shown_and_removed(folder: Path) -> None:
    assert set(KINDS) == set(get_args(CacheKind))
    for kind in get_args(CacheKind):
        made(folder / kind / "name" / "content", 40) if kind in ("artifacts", "foreign") else Cache(kind, 1000).write(
            "old", b"x"
        )
    shown = json.loads(succeed("cache", "info", "--json"))["kinds"]
    assert {kind: len(those) for kind, those in shown.items()} == dict.fromkeys(get_args(CacheKind), 1)


def test_what_is_old_goes_and_what_may_be_in_use_stays(folder: Path) -> None:
    Cache("tokens", 1000).write("old", b"x")
    aged(folder / "tokens" / "old", 40)
    Cache("tokens", 1000).write("new", b"x")
    old = made(folder / "references" / "old", 40)
    locked, recent = made(folder / "references" / "locked", 40), made(folder / "references" / "recent", 0.5)
    work = made(folder / "references" / "unfinished.work", 40)
    pulled = made(folder / "artifacts" / "me--tiny" / "commit", 40)
    running = made(folder / "artifacts" / "me--tiny" / "other", 40)
    foreign = made(folder / "notes", 40)
    assert [entry.path.name for entry in entries("references")][-1] == "recent"
    assert {entry.bytes for entry in entries("artifacts")} == {1000}
    with FileLock(folder / "references" / "locked.lock"), target_lock(running):
        cleaning = clean(30)
        assert {entry.path for entry in cleaning.removed} == {folder / "tokens" / "old", old, work, pulled}
        assert {entry.path for entry in cleaning.in_use} == {locked, running}
    assert not any(entry.path.exists() for entry in cleaning.removed)
    assert [path.exists() for path in (locked, running, recent, foreign)] == [True] * 4
    assert {entry.path for entry in clean().in_use} == {recent}
    left = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert left == ["file", "file"], "no lock is left behind"


def test_the_command_shows_and_empties_the_cache(folder: Path) -> None:
    assert str(folder) in succeed("cache", "info")
    made(folder / "references" / "old", 3)
    Cache("hashes", 1000).write("key", b"x")
    kinds = json.loads(succeed("cache", "info", "--json"))["kinds"]
    assert [(entry["bytes"], round(entry["days_since_use"])) for entry in kinds["references"]] == [(1000, 3)]
    assert "0.0 MB are free again" in succeed("cache", "clean", "--older-than", "4")
    after = json.loads(succeed("cache", "info", "--json"))["kinds"]
    assert {kind: len(those) for kind, those in after.items()} == {kind: len(those) for kind, those in kinds.items()}
    printed = succeed("cache", "clean")
    assert "references: removed 1, 0.0 MB" in printed
    assert "hashes: removed 1" in printed
    assert json.loads(succeed("cache", "clean", "--json")) == {"removed": [], "in_use": []}


def test_without_a_place_for_a_cache_there_is_one_message() -> None:
    environment = {"PATH": os.environ["PATH"]} | {"XDG_CACHE_HOME": "~nobody-at-all"}
    assert "there is no home folder to keep a cache in" in refuse("cache", "info", environment=environment)
