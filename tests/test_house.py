"""The rules of docs/house.md that a program can check."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pythia_quant"
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES} - {PACKAGE})
HOUSE = (ROOT / "docs" / "house.md").read_text()


def test_two_modules_stand_at_the_top() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_a_folder_says_in_one_sentence_what_it_holds(folder: Path) -> None:
    module = ast.parse((folder / "__init__.py").read_text())
    sentence = ast.get_docstring(module)
    assert len(module.body) == 1
    assert sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_a_format_has_a_readme_that_names_every_module() -> None:
    for folder in (PACKAGE / "formats").iterdir():
        if folder.is_dir() and (folder / "__init__.py").exists():
            readme = (folder / "README.md").read_text()
            assert set(re.findall(r"^\| `(\w+\.py)`", readme, re.MULTILINE)) == {
                path.name for path in folder.glob("*.py") if path.name != "__init__.py"
            }


def test_the_plan_of_the_house_names_every_module() -> None:
    plan = HOUSE.split("```")[1]
    for folder in FOLDERS:
        name = str(folder.relative_to(PACKAGE))
        if "/" in name:  # in the README there
            continue
        (part,) = re.findall(rf"^{name}/\n((?:  .*\n)+)", plan, re.MULTILINE)
        assert set(re.findall(r"\b(\w+\.py)\b", part)) == {
            path.name for path in folder.glob("*.py") if path.name != "__init__.py"
        }


def test_modules_and_functions_are_small() -> None:
    for path in MODULES:
        content = path.read_text()
        assert content.count("\n") <= 350, path
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, (path, node.name)
