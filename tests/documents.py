"""What the documents tell users to type, so that tests can do it."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import program
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def blocks(text: str, language: str) -> list[str]:
    """Return the blocks of code of a language in a Markdown text."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: str) -> list[str]:
    """Return the commands of a page of docs/, in their order."""
    return [line for block in blocks((DOCS / page).read_text(), "sh") for line in block.splitlines()]


def run(command: str, folder: Path, environment: Mapping[str, str] | None = None) -> program.Done:
    """Run a command of ours in a folder; ``> FILE`` writes what it prints to a file there."""
    words, _, target = command.partition(" > ")
    name, *arguments = shlex.split(words)
    assert Path(name).name == "pythia-quant", command
    with contextlib.chdir(folder):
        done = program.run(*arguments, environment=environment)
    if target:
        (folder / target).write_text(done.stdout)
    return done


def shortened(recipe: str, *variants: str) -> str:
    """Return the demo's recipe with some variants, and few windows that are short: the same steps in a few seconds."""
    settings = yaml.safe_load(recipe)
    for part in ("variants", "gates"):
        settings[part] = {name: settings[part][name] for name in variants}
    settings["evaluation"] |= {"windows": 8, "context": 128}
    settings["calibration"] |= {"windows": 8, "context": 128}
    settings["latency"] = {"rounds": 1, "prompts": [16], "contexts": [16]}
    return yaml.safe_dump(settings | {"basis": {}})
