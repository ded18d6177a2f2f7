"""What users call a model."""

from pathlib import Path

import pytest

from pythia_quant.core.errors import SourceError
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.model.source import open_source
from pythia_quant.model.source_name import Repository, parse_model, repository_of


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("EleutherAI/pythia-14m", Repository("EleutherAI/pythia-14m")),
        ("EleutherAI/pythia-14m/", Repository("EleutherAI/pythia-14m")),
        ("a/b@step3000", Repository("a/b", "step3000")),
        ("hf://a/b", Repository("a/b")),
        ("hf://a/b@main", Repository("a/b", "main")),
        ("https://huggingface.co/a/b", Repository("a/b")),
        ("https://huggingface.co/a/b.git", Repository("a/b")),
        ("https://huggingface.co/a/b/tree/step3000?x=1#top", Repository("a/b", "step3000")),
        ("https://hf.co/a/b/blob/refs%2Fpr%2F1/config.json", Repository("a/b", "refs/pr/1")),
        ("huggingface.co/a/b", Repository("a/b")),
        ("http://mirror.example:8080/a/b", Repository("a/b")),
        ("builtin:demo", None),
    ],
)
def test_names_and_addresses(model: str, expected: Repository | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example:8080")
    assert parse_model(model) == expected


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (".\\folder", "no such folder"), ("./missing", "no such folder"), ("~/missing", "no such folder"),
        ("a/b/c", "no such folder"), ("a b/c", "neither a folder"), ("", "neither a folder"), ("a/b@", "neither"),
        ("a\0b/c", r"neither a folder"), ("a--b/c", "neither a folder"), ("x" * 5000, "neither a folder"),
        ("pythia-14m", "did you mean 'EleutherAI/pythia-14m'"), ("builtin:dmo", "did you mean 'builtin:demo'"),
        ("https://github.com/EleutherAI/pythia", "no address of the hub"), ("http://[", "no address of the hub"),
        ("file:///etc/passwd", "no address of the hub"),
        ("https://huggingface.co/datasets/a/b", "no address of a model"),
        ("https://huggingface.co/a", "no address of a model"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_model_is_answered_at_once(model: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(model)
    assert repository_of(model) == model


def test_a_file_in_a_folder_means_the_folder(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    for model in (checkpoint / "model.safetensors", checkpoint / "config.json", "~/tiny"):
        assert open_source(str(model)).folder == checkpoint
    stray = checkpoint.parent / "model.gguf"
    stray.touch()
    with pytest.raises(SourceError, match=r"model\.gguf: is no checkpoint"):
        open_source(str(stray))


def test_folders_of_the_hubs_cache_are_understood(checkpoint: Path) -> None:
    cached = checkpoint.parent / "models--someone--tiny"
    snapshot = cached / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (cached / "blobs").mkdir()
    for number, file in enumerate(sorted(checkpoint.iterdir())):
        blob = file.rename(cached / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    for model in (cached, cached / "snapshots", snapshot, snapshot / "config.json"):
        source = open_source(str(model))
        assert (source.folder, source.slug) == (snapshot, "someone--tiny")
    (cached / "refs").mkdir()
    (cached / "refs/step3000").write_text("a" * 40)
    assert open_source(str(cached), "step3000").folder == snapshot
    (cached / "refs/main").write_text("b" * 40)
    with pytest.raises(SourceError, match="no snapshot of the revision 'main'"):
        open_source(str(cached))


def test_an_artifact_is_no_source(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text("{}")
    with pytest.raises(SourceError, match="is an artifact of ours"):
        open_source(str(checkpoint))


def test_an_address_and_an_option_may_not_name_two_revisions() -> None:
    with pytest.raises(SourceError, match="names the revision 'step1000', and 'step3000' is asked for"):
        open_source("hf://someone/tiny@step1000", "step3000")
