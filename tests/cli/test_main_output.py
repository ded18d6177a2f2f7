"""How the program ends when a command is mistyped, when it cannot write its output, and by a fault of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import measured
import pytest
from program import run

from pythia_quant.records.results import save_results

SHOW = "recipes", "show", "pythia-1.4b"

DEFECT = r"""
import logging, warnings
from pythia_quant.cli.main import main
def command():
    logging.getLogger("transformers").warning("from a file: %s", "\x1b[2J")
    warnings.warn("from a file: \u202e")
    {}["hf_abcdefGHIJ1234\x1b"]
main(command)
"""


def start(*arguments: str | Path, stdout: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def full() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@contextmanager
def closed_pipe() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_that_cannot_be_written_is_one_message_or_none(tmp_path: Path) -> None:
    program = ("-m", "pythia_quant")
    results = measured.results(measured.row("torch-fp16", 0))
    named = results.model_copy(update={"source": results.source.model_copy(update={"model": "modèle"})})
    save_results(named, tmp_path / "results.json")
    report = (*program, "report", tmp_path / "results.json", "--format", "markdown")
    with full() as device, closed_pipe() as pipe:
        to_full, to_nobody = start(*program, *SHOW, stdout=device), start(*program, *SHOW, stdout=pipe)
        in_ascii = start(*report, PYTHONIOENCODING="ascii")
        defect = start("-c", DEFECT)
        said = {process: process.communicate(timeout=60) for process in (to_full, to_nobody, in_ascii, defect)}

    assert to_full.returncode == 2
    assert said[to_full][1].splitlines()[0] == "error: standard output: cannot be written: the disk is full"
    assert "Traceback" not in said[to_full][1]

    assert (to_nobody.returncode, said[to_nobody][1]) == (141, "")

    printed, complaint = said[in_ascii]
    assert (in_ascii.returncode, complaint) == (0, "")
    assert printed.startswith("### mod?le\n")

    assert defect.returncode == 1
    logged, first, asking, *rest = said[defect][1].splitlines()
    assert logged == r"from a file: \x1b[2J"  # warnings are for programmers, and not shown
    assert first == r"error: KeyError('hf_…\x1b')"
    assert asking.startswith("  this is a defect of ours: please report it with the command and what follows (")
    assert "Traceback" in rest[0]
    assert "abcdefGHIJ" not in said[defect][1]


def test_a_mistyped_command_is_answered_with_the_right_one() -> None:
    done = run("convrt", "demo")
    assert done.returncode == 2
    assert "Did you mean 'convert'?" in done.stderr


def test_no_line_ends_in_blanks_where_no_terminal_shows_it(tmp_path: Path) -> None:
    rows = measured.row("torch-fp16", 0), measured.row("torch-fp32", 0), measured.row("variant", 0.1, decode=0.02)
    save_results(measured.results(*rows), tmp_path / "a.json")
    save_results(measured.results(*rows[:2], measured.row("variant", 0.3)), tmp_path / "b.json")
    (tmp_path / "empty").mkdir()
    for command in (
        "show a.json", "compare a.json b.json --all", "report a.json --format markdown", "suite", "recipes list",
        "ls empty", "cache info", "--help", "run --help", "cache --help", "cache clean --help",
    ):  # fmt: skip
        words = [str(tmp_path / word) if word in ("a.json", "b.json", "empty") else word for word in command.split()]
        done = run(*words)
        assert done.returncode in (0, 3), (command, done.stderr)
        assert done.stdout.strip()
        assert [line for line in done.stdout.splitlines() if line.endswith(" ")] == [], command
