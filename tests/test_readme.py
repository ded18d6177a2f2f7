"""What the README says to type is run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pythia_quant.recipe import load_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith(".venv/bin/pythia-quant")]
NEEDS_THE_HUB = [command for command in COMMANDS if "pythia-1" in command]


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def test_the_commands_and_the_library_example_work_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    local = [command for command in COMMANDS if command not in NEEDS_THE_HUB]
    assert len(local) >= 7
    for command in local:
        printed = run(["-m", "pythia_quant", *shlex.split(command)[1:]], tmp_path)
        assert printed
    (example,) = blocks("python")
    assert run(["-c", example], tmp_path).startswith("9.0")


def test_the_commands_that_need_the_hub_name_recipes_and_options_that_exist() -> None:
    assert len(NEEDS_THE_HUB) >= 3
    for command in NEEDS_THE_HUB:
        _, subcommand, recipe, *options = shlex.split(command)
        load_recipe(ROOT / recipe if "/" in recipe else recipe)
        known = run(["-m", "pythia_quant", subcommand, "--help"], ROOT)
        assert all(option in known for option in options if option.startswith("--"))


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_recipe_shown_is_part_of_the_one_that_ships(tmp_path: Path) -> None:
    (shown,) = blocks("yaml")
    shipped = (ROOT / "recipes" / "demo.yaml").read_text()
    for part in shown.strip().split("\n\n"):
        assert part in shipped
    path = tmp_path / "shown.yaml"
    path.write_text(shown)
    load_recipe(path)


def test_the_table_shown_has_every_row_a_run_prints() -> None:
    (table,) = blocks("text")[:1]
    assert all(len(line) <= 100 for line in table.splitlines())
    for name in ("torch-fp16", "torch-bf16", "torch-fp32", *load_recipe("demo").settings.variants):
        assert re.search(rf"^{name} +[-+\d]", table, re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
