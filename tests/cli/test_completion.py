"""What a shell completes, asked as bash asks."""

import os
from pathlib import Path

import program
import pytest

from pythia_quant.cli.completion import complete_artifact


def completed(line: str, *, last: int) -> list[str]:
    """Return what the program answers to bash for the word at a place of a command line."""
    environment = os.environ | {
        "_PYTHIA_QUANT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(last),
    }  # fmt: skip
    return program.run(environment=environment).stdout.split()


@pytest.mark.parametrize(
    ("line", "last", "expected"),
    [
        ("pythia-quant run de", 2, ["demo"]),
        ("pythia-quant run demo --only gp", 4, ["gptq-int4"]),
        ("pythia-quant convert demo --only onnx-int8-", 4, ["onnx-int8-dynamic"]),
        ("pythia-quant run none --only gp", 4, []),
        ("pythia-quant sweep --preset s", 3, ["seeds", "suite"]),
        ("pythia-quant sweep run --preset arxiv-2510", 4, ["arxiv-2510.06213"]),
    ],
)
def test_names_are_completed(line: str, last: int, expected: list[str]) -> None:
    assert completed(line, last=last) == expected


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("out/demo/main/onnx-int8/onnx", "out/demo/main/gptq-int4", "out/demo/.partial-x", "other/empty", "x"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("onnx-int8", "gptq-int4", "../.partial-x"):
        (tmp_path / "out/demo/main" / name / "pythia_quant.json").write_text("{}")
    (tmp_path / "out/circle").symlink_to(tmp_path / "out")
    monkeypatch.chdir(tmp_path)


BOTH = ["out/demo/main/gptq-int4", "out/demo/main/onnx-int8"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", ["other/", *BOTH, "out/", "x/"]),
        ("o", ["other/", *BOTH, "out/"]),
        ("ou", [*BOTH, "out/"]),
        ("out/", ["out/demo/", *BOTH]),
        ("./out/demo/main/on", ["./out/demo/main/onnx-int8"]),
        ("ot", []),
        ("none/", []),
        ("hf://me/x", []),
    ],
)
@pytest.mark.parametrize("command", ["bench", "verify", "generate", "publish"])
def test_artifacts_are_completed_and_folders_stay_completable(
    folders: None, command: str, typed: str, expected: list[str]
) -> None:
    assert sorted(completed(f"pythia-quant {command} {typed}", last=2)) == sorted(expected)


def test_artifacts_are_not_looked_for_without_end(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number) / "a/b/c/d/e/f/g").mkdir(parents=True)
    (tmp_path / "50/a/b/c/d/e/f/g/pythia_quant.json").touch()
    assert complete_artifact(f"{tmp_path}/") == []


def test_help_is_grouped() -> None:
    printed = program.run("--help").stdout
    places = [
        printed.index(word) for word in (" Quantize ", "convert", " Measure ", "bench", " Manage and publish ", "cache")
    ]
    assert places == sorted(places)
