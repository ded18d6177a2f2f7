"""A virtual environment for each peer, with pinned versions: no two of them agree on transformers, optimum or torch.

Each is made once, in a work folder. A stamp file says what it was made from, so that an environment that is up to date
is not made again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"

_STAMP = ".made-from.json"
_VERSIONS = "import importlib.metadata as m,json;print(json.dumps({d.name:d.version for d in m.distributions()}))"


class UnavailableError(Exception):
    """A peer cannot be installed or run here; the message says why."""


@dataclass(frozen=True)
class Environment:
    """What a peer needs.

    Attributes:
        installs: words for ``pip install``, in steps: with the pinned torch there, no later step asks for another
            build of it.
        source: a requirement to build from its source, which is left in ``source`` inside the environment.
        options: gives ``CMAKE_ARGS`` of that build.
    """

    installs: tuple[tuple[str, ...], ...]
    source: str | None = None
    options: Callable[[], str] = str

    def identity(self) -> str:
        """Return what the environment is made from, as text."""
        parts = [self.installs, self.source, self.options(), sys.version]
        return json.dumps(parts)


def make(name: str, environment: Environment, work: Path, say: Callable[[str], object] = print) -> Path:
    """Make an environment unless it is there, and return its interpreter.

    Args:
        name: of its folder.
        environment: what it is made from.
        work: the folder for all of them.
        say: called with what is being done, because it takes minutes.

    Raises:
        UnavailableError: with the last line that pip or the build printed.
    """
    folder = work / "environments" / name
    stamp = folder / _STAMP
    python = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == environment.identity():
        return python
    say(f"installing {name} (once, in {folder})")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = work / "environments" / f"{name}.log"
    _run([sys.executable, "-m", "venv", str(folder)], log)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for requirements in environment.installs:
        _run([*pip, *requirements], log)
    if environment.source:
        say(f"building {environment.source} with {environment.options()}")
        source = _unpack(environment.source, python, folder, log)
        _run([*pip, str(source)], log, {"CMAKE_ARGS": environment.options()})
    stamp.write_text(environment.identity())
    return python


def _unpack(requirement: str, python: Path, folder: Path, log: Path) -> Path:
    """Download a source distribution and unpack it as ``source`` inside the environment."""
    place = folder / "download"
    fetch = ["download", "--quiet", "--no-deps", "--no-binary", requirement.partition("==")[0]]
    _run([str(python), "-m", "pip", *fetch, "--dest", str(place), requirement], log)
    with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
        archive.extractall(place, filter="data")
    source = folder / "source"
    next(path for path in place.iterdir() if path.is_dir()).rename(source)
    shutil.rmtree(place)
    return source


def _run(command: list[str], log: Path, extra: dict[str, str] | None = None) -> None:
    with log.open("ab") as file:
        child = subprocess.run(command, stdout=file, stderr=file, env=os.environ | (extra or {}), check=False)
    if child.returncode:
        raise UnavailableError(f"{' '.join(command[:4])} failed; the end of {log} says why")


def versions(python: Path) -> dict[str, str]:
    """Return the versions of all that an interpreter has installed."""
    child = subprocess.run([python, "-c", _VERSIONS], capture_output=True, check=True)
    found: dict[str, str] = json.loads(child.stdout)
    return found
