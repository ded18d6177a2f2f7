"""What a shell completes, asked as bash asks."""

import os

import program
import pytest


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
    ],
)
def test_names_are_completed(line: str, last: int, expected: list[str]) -> None:
    assert completed(line, last=last) == expected


def test_help_is_grouped() -> None:
    printed = program.run("--help").stdout
    places = [
        printed.index(word) for word in (" Quantize ", "convert", " Measure ", "bench", " Manage and publish ", "cache")
    ]
    assert places == sorted(places)
