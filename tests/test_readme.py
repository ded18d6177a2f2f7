"""What the README, and the pages that it leads to, say to type is run."""

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import documents
import program
import pytest
from documents import shortened
from loopback import Hub, client_environment, loopback_hub

from pythia_quant.artifacts.inputs import load_inputs
from pythia_quant.core.files import cache_folder
from pythia_quant.recipe.recipe import load_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [README] + [(ROOT / "docs" / f"{name}.md").read_text() for name in ("measuring", "clients", "recipes")]


def blocks(language: str) -> list[str]:
    return [block for page in PAGES for block in documents.blocks(page, language)]


LINES = [line for block in blocks("sh") for line in block.splitlines()]
COMMANDS = [line for line in dict.fromkeys(LINES) if line.startswith(".venv/bin/pythia-quant")]
(DEMO,) = re.findall(r"^make demo .*(\.venv/bin/pythia-quant .*)$", README, re.MULTILINE)
NEEDS_THE_HUB = [command for command in COMMANDS if "pythia-1" in command]


def run(command: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command of the README in a folder, and return what it prints."""
    with contextlib.chdir(folder):
        done = program.run(*shlex.split(command)[1:], environment=environment)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def run_script(script: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    with contextlib.chdir(folder):
        return program.run_script(script, environment=environment).stdout


PROMPT = '--prompt "import os" --max-new-tokens 38'


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with loopback_hub() as hub:
        for branch in ("main", "step0"):
            hub.put("EleutherAI/pythia-2.8b", branch, {"model.safetensors": branch.encode()})
        yield hub


@pytest.fixture(scope="module")
def demo_texts() -> None:
    """Have what is found out about the demo's texts in the cache; it takes as long as all commands together."""
    load_inputs(load_recipe("demo"), only=["onnx-int8"])


def test_the_texts_of_the_demo_are_there(demo_texts: None) -> None:
    assert list(cache_folder("texts").iterdir())


@pytest.fixture(scope="module")
def folder(demo_texts: None, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `make demo` was run, by its own command on a recipe that is soon done with."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    demo = folder / "recipes" / "demo.yaml"
    demo.write_text(shortened(demo.read_text(), "onnx-int8"))
    assert run(DEMO, folder, client_environment(hub, folder / "home"))
    return folder


def test_the_commands_work_in_their_order(hub: Hub, folder: Path) -> None:
    local = [command for command in COMMANDS if command not in NEEDS_THE_HUB]
    assert len(local) >= 11
    environment = client_environment(hub, folder / "home")
    for command in local:
        assert run(command, folder, environment)
    assert "README.md" in hub.files("me/demo-onnx-int8")
    (library,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "hub.md").read_text(), re.DOTALL)
    assert run_script(library, folder, environment).startswith("[] ---"), "it was published by the command"


@pytest.mark.slow
def test_make_demo_passes_all_gates(tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    command = [sys.executable, "-m", "pythia_quant", *shlex.split(DEMO)[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in load_recipe("demo").settings.variants:
        assert re.search(rf"^{name} +.* passed$", done.stdout, re.MULTILINE) or name == "onnx-fp32"


def example(language: str, word: str) -> str:
    (found,) = (block for block in blocks(language) if word in block)
    return found


def test_the_library_example_works(folder: Path) -> None:
    assert run_script(example("python", "pythia_quant as pq"), folder).startswith("9.04")


def test_other_programs_print_what_ours_does(folder: Path) -> None:
    expected = run(f"pythia-quant generate artifacts/demo/builtin/onnx-int8 {PROMPT}", folder).strip()
    assert len(expected) > 50
    printed = run_script(example("python", "onnxruntime_genai"), folder)
    assert printed.strip() == expected


@pytest.mark.slow
def test_transformers_js_prints_what_ours_does(folder: Path) -> None:
    expected = run(f"pythia-quant generate artifacts/demo/builtin/onnx-int8 {PROMPT}", folder).strip()
    node, modules = shutil.which("node"), Path(sys.prefix) / "share" / "transformers.js" / "node_modules"
    if node is None or not modules.is_dir():
        pytest.skip("transformers.js is not tested: node or the package is missing, see tests/clients")
    (folder / "node_modules").symlink_to(modules)
    (folder / "example.mjs").write_text(example("js", "pipeline"))
    printed = subprocess.run([node, "example.mjs"], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == expected


def test_the_commands_that_need_the_hub_name_recipes_and_options_that_exist() -> None:
    assert len(NEEDS_THE_HUB) >= 3
    for command in NEEDS_THE_HUB:
        _, subcommand, recipe, *options = shlex.split(command)
        load_recipe(ROOT / recipe if "/" in recipe else recipe)
        known = run(f"pythia-quant {subcommand} --help", ROOT)
        assert all(option in known for option in options if option.startswith("--"))


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
    assert DEMO.replace(".venv/bin", "$(BIN)") in makefile


def test_the_recipe_shown_is_part_of_the_one_that_ships(tmp_path: Path) -> None:
    shown = blocks("yaml")[0]
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
