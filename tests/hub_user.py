"""Artifacts of a tiny hub model with their measurement, and the program as a user of a hub runs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import program
import pytest
from loopback import Hub, client_environment, loopback_hub
from shared import Shared
from tiny import write_recipe
from workers import in_process

SOURCE = "someone/tiny"
ORIGINAL = """\
---
license: apache-2.0
language: [en]
tags: [pytorch, pythia]
---
# A tiny model

## Uses and Limitations

### Intended Use
To be quantized in tests.

### Out-of-scope use
Everything else.

### Limitations and biases
It knows nothing.
"""
SECRETS = ("hf_secretsecretsecret", "presignedsecret", "X-Amz-Signature", "secretsecret")


@dataclass
class Client:
    """Runs the program as one that knows one hub; no secret may appear in what it prints.

    Attributes:
        hub: the hub.
        home: cache of huggingface_hub and of the program.
        environment: variables set for every call; None takes one out.
    """

    hub: Hub
    home: Path
    environment: dict[str, str | None] = field(default_factory=dict)

    def run(self, *arguments: str | Path, **extra: str | None) -> subprocess.CompletedProcess[str]:
        """Run the program in this process; in one of its own where it logs, which concerns the whole process."""
        if "--debug" in arguments:
            return self.python("-m", "pythia_quant", *arguments, **extra)
        return self._checked(program.run(*arguments, environment=self._environment(extra)))

    def python(self, *arguments: str | Path, **extra: str | None) -> subprocess.CompletedProcess[str]:
        """Run Python in a process of its own."""
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=self._environment(extra),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return self._checked(done)

    def _environment(self, extra: dict[str, str | None]) -> dict[str, str]:
        cache = {"PYTHIA_QUANT_CACHE": str(self.home / "own")}
        return client_environment(self.hub, self.home, **cache, **self.environment, **extra)

    def _checked(self, done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
        for secret in SECRETS:
            assert secret not in done.stdout + done.stderr
        assert not self.hub.crashes
        return done

    def succeed(self, *arguments: str | Path, **extra: str | None) -> str:
        """Run the program and return what it prints."""
        done = self.run(*arguments, **extra)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refuse(self, *arguments: str | Path, **extra: str | None) -> str:
        """Run the program and return its one message."""
        done = self.run(*arguments, **extra)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def anew(self, name: str) -> Client:
        """Return a client of the same hub that has nothing cached."""
        return Client(self.hub, self.home.with_name(name), self.environment)


@pytest.fixture(scope="session")
def origin(shared: Shared) -> Path:
    """Return a folder with a checkpoint as a hub serves it, its card included, and texts and a recipe for it."""

    def make(folder: Path) -> None:
        write_recipe(folder)
        (folder / "tiny.yaml").write_text((folder / "tiny.yaml").read_text().replace("rounds: 1", "rounds: 0"))
        (folder / "tiny" / "README.md").write_text(ORIGINAL)

    return shared("origin", make)


@pytest.fixture(scope="session")
def made(origin: Path, shared: Shared) -> Path:
    """Return a folder of artifacts made from the hub's checkpoint by its own name, with results.json."""

    def make(out: Path) -> None:
        with loopback_hub() as hub, in_process():
            hub.add(SOURCE, {"main": origin / "tiny"})
            client = Client(hub, out.with_name("home"))
            variants = [part for name in ("bnb-nf4", "gptq-int4", "onnx-int8") for part in ("--only", name)]
            client.succeed("run", origin / "tiny.yaml", "--model", SOURCE, *variants, "--out", out)

    return shared("made", make) / "someone--tiny" / "main"


@pytest.fixture
def hub(origin: Path) -> Iterator[Hub]:
    """Run a hub that has the checkpoint."""
    with loopback_hub() as hub:
        hub.add(SOURCE, {"main": origin / "tiny"})
        yield hub


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    """Return a user of that hub with nothing cached, who sees every call logged."""
    return Client(hub, tmp_path / "home")


@pytest.fixture
def artifacts(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the artifacts."""
    return Path(shutil.copytree(made, tmp_path / "artifacts" / "someone--tiny" / "main"))
