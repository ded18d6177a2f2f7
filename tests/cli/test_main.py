"""What is listed and shown without computing, and how the program starts and ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import measured
import pytest
from documents import DOCS
from program import refuse, run, succeed

from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records.results import save_results

COMMANDS = [
    "quantize",
    "run",
    "convert",
    "bench",
    "report",
    "compare",
    "verify",
    "generate",
    "recipes list",
    "recipes show",
    "recipes validate",
    "suite",
    "source",
    "ls",
    "cache info",
    "cache clean",
    "show",
    "publish",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    printed = succeed(*command.split(), "--help")
    assert "Example" in printed
    assert f"pythia-quant {command.split(maxsplit=1)[0]}" in printed


@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_and_says_what_the_exit_codes_and_variables_are(width: int) -> None:
    for command in ("", *COMMANDS):
        printed = succeed(*command.split(), "--help", environment=os.environ | {"COLUMNS": str(width)})
        assert max(map(len, printed.splitlines())) <= width, command
        assert {"0", "2", "128+n"} <= set(re.findall(r"^   (\d\S*)  ", printed, re.MULTILINE)), command
        gates = command in ("", "run", "bench", "quantize")
        assert ("A gate is undecided." in printed) == gates, command
    listed = (
        (DOCS / "environment.md").read_text().partition("## Environment variables")[2].partition("`PYTHIA_QUANT_P")[0]
    )
    names = {
        name for line in listed.splitlines() if "|" in line for name in re.findall("`([A-Z_]{5,})`", line.split("|")[1])
    }
    assert names == set(re.findall(r"^   ([A-Z_]+) ", succeed("--help"), re.MULTILINE))


def test_help_fills_its_lines_whatever_the_width_of_the_code() -> None:
    printed = succeed("publish", "--help", environment=os.environ | {"COLUMNS": "80"})
    assert "\n bytes, or missed a gate. Files that the repository has already are not sent\n" in printed


def test_the_program_starts_without_torch() -> None:
    script = (
        "import sys; from pythia_quant.recipe.recipe import load_recipe; import pythia_quant.cli.main;"
        "load_recipe('demo');"
        "print(sorted({'torch', 'transformers', 'onnx', 'onnxruntime', 'bitsandbytes'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recipes_and_suite_are_listed_and_shown(recipe_file: Path) -> None:
    assert "EleutherAI/pythia-6.9b" in succeed("recipes", "list")
    assert "format: gptq" in succeed("recipes", "show", "pythia-1.4b")
    assert "valid, recipe id" in succeed("recipes", "validate", recipe_file)
    sizes = json.loads(succeed("suite", "--json"))
    assert sizes[3]["parameters"] == 162_322_944
    names = [member["repo_id"] for size in sizes for member in size["members"] if member["revisions"] == 154]
    assert len(names) == 20 + 51
    shown = succeed("suite")
    assert "11,846,072,320" in shown
    assert re.search(r"seed1–9 +14m 31m 70m 160m 410m +154", shown)
    assert max(map(len, shown.splitlines())) <= 80
    recipe_file.write_text(recipe_file.read_text().replace("damping", "dampling").replace("windows: 16", "window: 16"))
    assert "did you mean 'windows'" in refuse("recipes", "validate", recipe_file)


def test_recipes_are_listed_shown_and_checked_for_programs(recipe_file: Path) -> None:
    listed = {one["recipe"]: one for one in json.loads(succeed("recipes", "list", "--json"))}
    assert listed["pythia-6.9b"]["model"] == "EleutherAI/pythia-6.9b"
    assert "gptq-int4" in listed["demo"]["variants"]
    assert json.loads(succeed("recipes", "show", "demo", "--json")) == load_recipe("demo").canonical()
    bad = recipe_file.with_name("bad.yaml")
    bad.write_text(recipe_file.read_text().replace("windows", "window"))
    done = run("recipes", "validate", recipe_file, bad, "--json")
    good, refused = json.loads(done.stdout)
    assert (done.returncode, good["error"], good["id"]) == (2, None, load_recipe(recipe_file).id)
    assert "did you mean 'windows'" in refused["error"]


def test_the_written_files_of_a_report_are_listed_for_programs(tmp_path: Path) -> None:
    save_results(measured.results(measured.row("torch-fp16", 0), measured.row("variant", 0.1)), tmp_path / "a.json")
    written = json.loads(succeed("report", tmp_path / "a.json", "--out", tmp_path / "report", "--json"))
    assert written["page"] == str(tmp_path / "report/index.html")
    assert sorted(map(Path, written["files"])) == sorted(p for p in (tmp_path / "report").rglob("*") if p.is_file())
    assert "--json" in refuse("report", tmp_path / "a.json", "--format", "csv", "--json")


def test_every_command_prints_json() -> None:
    for command in COMMANDS:
        assert "--json" in succeed(*command.split(), "--help"), command


def test_an_argument_that_is_not_utf8_is_refused_whatever_it_is_for() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pythia_quant", "generate", "folder", "--prompt", b"caf\xe9"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == b"error: caf\\udce9: is not UTF-8\n  give it in that encoding\n"


WARNING = """
import sys, warnings
from pythia_quant.cli.main import main
sys.argv[1:] = []
main(lambda: warnings.warn("for programmers"))
main(lambda: print("text"))
"""


def test_warnings_of_libraries_are_not_shown_and_output_that_cannot_be_written_is_named() -> None:
    with open(os.devnull) as read_only:  # noqa: PTH123 - as the shell's 1</dev/null
        done = subprocess.run([sys.executable, "-c", WARNING], stdout=read_only, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: standard output: is not open for this")
