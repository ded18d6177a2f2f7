"""What the program is doing when a fault comes: a command in a folder of its own, and what is there when it is done."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopback import Hub, client_environment, loopback_hub
from tiny import TINY, random_weights, write_checkpoint, write_recipe

from faults.nursery import Ending, Fault, Nursery
from pythia_quant.artifacts.artifact import artifact_folders, open_artifact, verify_files
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.sweep.table import TABLE, VOLATILE, read_table

METHODS = ("bnb-nf4", "gptq-int4", "onnx-int8", "onnx-int4", "gguf-q4", "ct-int4")
"""One or more of every format; two of them take the integers of a third."""
_SOLVED = ("gptq-int4", "onnx-int4", "ct-int4")
_TEXTS = ("--text", "evaluation.txt", "--calibration", "calibration.txt")
_FEW = ("--set", "calibration.windows=12", "--set", "evaluation.windows=3", "--set", "latency.rounds=0")
_VOLATILE = {"created", "seconds", "manifest_sha256", "tool"}
_OF_A_TIME = re.compile(r"results-[\dTZ-]+\.json$")
_OF_LIBRARIES = ("home", "tmp/torchinductor_root")
"""The cache of the hub's client, and an empty folder of torch."""
STUDY = """\
schema: 1
recipe: tiny.yaml
settings: {evaluation.windows: 3, calibration.windows: 12, latency.rounds: 0}
variants: [gptq-int4, onnx-int8]
sources:
  - {model: "./runs/{revision}", seed: 1, size: tiny, tokens_per_step: 100, revisions: "step0,step1"}
"""


@dataclass(frozen=True)
class Scene:
    """A command, and what it needs.

    Attributes:
        command: the command's name, under which trials are counted.
        name: what tells scenes of the same command apart.
        arguments: the arguments after the program's name; the current folder is the scene's.
        prepare: writes what the command needs into the scene's folder; it may run the program.
        on_hub: folders of the scene to put on a hub, by the repository's name, for each trial.
        replaces: whether the command replaces an artifact that is there.
    """

    command: str
    name: str
    arguments: tuple[str, ...]
    prepare: Callable[[Stage, Path], object]
    on_hub: tuple[tuple[str, str], ...] = ()
    replaces: bool = False


class Stage:
    """Where scenes are played: a folder that is laid anew for each trial.

    Args:
        folder: the folder for everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.here = folder, folder / "here"
        self.nursery = Nursery(folder / "nursery")
        self._resources = ExitStack()
        self.hub: Hub | None = None
        self._prepared: set[str] = set()
        self._expected: dict[str, Expected] = {}

    def lay(self, scene: Scene) -> None:
        """Lay the folder anew, and start a hub if the scene needs one."""
        template = self.folder / "templates" / f"{scene.command} {scene.name}"
        self._strike()
        if scene.name + scene.command not in self._prepared:
            self.here.mkdir(parents=True)
            (self.here / "tmp").mkdir()
            scene.prepare(self, self.here)
            template.parent.mkdir(exist_ok=True)
            self.here.rename(template)
            self._prepared.add(scene.name + scene.command)
        shutil.copytree(template, self.here, symlinks=True)
        if scene.on_hub:
            self.start_hub({repository: self.here / folder for repository, folder in scene.on_hub})

    def start_hub(self, repositories: dict[str, Path]) -> Hub:
        """Start a hub with these repositories; it runs until the folder is laid anew."""
        self.hub = self._resources.enter_context(loopback_hub())
        for repository, folder in repositories.items():
            self.hub.add(repository, {"main": folder})
        return self.hub

    def run(self, arguments: tuple[str, ...], fault: Fault = Fault()) -> Ending:  # noqa: B008
        """Run the program in the folder."""
        return self.nursery.run(list(arguments), self.here, self.environment(), fault)

    def environment(self) -> dict[str, str]:
        """Return the variables of the program: cache and temporary files are in the folder."""
        own = {
            "PYTHIA_QUANT_CACHE": str(self.here / "cache"), "TMPDIR": str(self.here / "tmp"), "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        if self.hub is None:
            return dict(os.environ) | own | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self.here / "home")}
        return client_environment(self.hub, self.here / "home", **own)

    def expected(self, scene: Scene) -> Expected:
        """Return what the undisturbed command leaves; it is run once."""
        key = scene.command + scene.name
        if key not in self._expected:
            self.lay(scene)
            ending = self.run(scene.arguments)
            assert ending.code in (0, 3, 4), ending.said
            left = listing(self.here)
            self._expected[key] = Expected(ending.code, ending.events, products(self.here), left, self._commits())
        return self._expected[key]

    def _commits(self) -> list[str]:
        """Return the titles of the commits to the repository that is published, and a hash of what it has now."""
        if self.hub is None or "me/tiny" not in self.hub.repos:
            return []
        content = repr(sorted(self.hub.files("me/tiny").items())).encode()
        return [*(commit.title for commit in self.hub.commits("me/tiny")), hashlib.sha256(content).hexdigest()]

    def check_between(self, scene: Scene) -> None:
        """Look at what a fault has left: every output is absent, or complete."""
        out = self.here / "out"
        for folder in artifact_folders(out) if out.is_dir() else []:
            verify_files(open_artifact(folder))
        for results in out.rglob("results.json"):
            if not any(part.startswith(".") for part in results.relative_to(out).parts):
                json.loads(results.read_bytes())
        expected = self.expected_products(scene)
        for name in ("report", "pages"):
            folder = self.here / name
            if folder.exists():
                there = {key: value for key, value in products(self.here).items() if key.startswith(f"{name}/")}
                wanted = {key: value for key, value in expected.items() if key.startswith(f"{name}/")}
                assert there == wanted, f"{name} is not whole"

    def expected_products(self, scene: Scene) -> dict[str, str]:
        """Return the products of the undisturbed command, which has been run."""
        return self._expected[scene.command + scene.name].products

    def check_after(self, scene: Scene, fault: Fault) -> None:
        """Run the command again and compare all that is there with what the undisturbed one left."""
        expected = self._expected[scene.command + scene.name]
        kept = {} if scene.replaces else _manifests(self.here)
        finished = _finished(self.here)
        ending = self.run(scene.arguments)
        assert ending.code == expected.code, (fault, ending.code, ending.said[-2000:])
        assert "Traceback" not in ending.said, ending.said
        again = [name for name in finished if any(line.endswith(f"measure_{name}") for line in ending.calls)]
        assert not again, f"measured again: {again}"
        changed = [str(path) for path, content in kept.items() if path.read_bytes() != content]
        assert not changed, f"made again: {changed}"
        there = products(self.here)
        differs = sorted(name for name in there.keys() | expected.products.keys()
                         if there.get(name) != expected.products.get(name))  # fmt: skip
        assert not differs, f"differs from what the undisturbed command leaves: {differs}"
        left = listing(self.here) ^ expected.left
        left = {name for name in left if not (name.startswith("cache/") and name in expected.left)}  # kept no more
        assert not left, f"left behind, or missing: {sorted(left)}"
        assert self._commits() == expected.commits, self._commits()

    def _strike(self) -> None:
        self._resources.close()
        self.hub = None
        shutil.rmtree(self.here, ignore_errors=True)

    def close(self) -> None:
        """End all processes and remove the folder."""
        self._strike()
        self.nursery.close()


@dataclass(frozen=True)
class Expected:
    """What an undisturbed command leaves: exit code, file events, contents, names, commits on the hub."""

    code: int
    events: int
    products: dict[str, str]
    left: set[str]
    commits: list[str]


def products(here: Path) -> dict[str, str]:
    """Return a hash of each file that the command made, without what differs from run to run: times."""
    return {
        path.relative_to(here).as_posix(): _digest(path)
        for part in ("out", "report", "store")
        for path in sorted((here / part).rglob("*"))
        if path.is_file() and not path.name.startswith(".") and not _OF_A_TIME.search(path.name)
    }


def listing(here: Path) -> set[str]:
    """Return the names of all files and folders but those that a second result file moves away."""
    names = {path.relative_to(here).as_posix() for path in here.rglob("*")}
    return {name for name in names if not _OF_A_TIME.search(name) and not name.startswith(_OF_LIBRARIES)}


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        content = json.dumps(_without_times(json.loads(content)), sort_keys=True).encode()
    elif path.name == TABLE:
        lines = read_table(path)
        content = repr([{key: value for key, value in line.items() if key not in VOLATILE} for line in lines]).encode()
    elif path.suffix in (".csv", ".html"):
        content = b"" if "report" not in path.parts or "out" in path.parts else content  # a study's has times
    return hashlib.sha256(content).hexdigest()


def _without_times(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_times(value) for key, value in data.items() if key not in _VOLATILE}
    return [_without_times(value) for value in data] if isinstance(data, list) else data


def _manifests(here: Path) -> dict[Path, bytes]:
    """Return the manifests of finished artifacts and the results of finished jobs, which a second call keeps."""
    artifacts = (path for path in (here / "out").rglob(MANIFEST) if "work" not in path.parts)  # a study removes those
    names = [*artifacts, *(here / "out" / "store" / "results").glob("*.json")]
    hidden = [path for path in names if any(part.startswith(".") for part in path.relative_to(here).parts)]
    return {path: path.read_bytes() for path in names if path not in hidden}


def _finished(here: Path) -> list[str]:
    """Return what a work folder says of finished measurements: ``drift NAME``."""
    files = (path for path in here.rglob("*.json") if any(".work-" in part for part in path.parts))
    parts = (path.name.removesuffix(".json").rpartition(".") for path in files)
    return [f"{what} {name}" for name, _, what in parts if what in ("drift", "lambada")]


def _tiny(_: Stage, here: Path) -> None:
    write_recipe(here)


def _quantized(stage: Stage, here: Path, method: str = "onnx-int8") -> None:
    write_recipe(here)
    ending = stage.run(quantize(method))
    assert ending.code == 0, ending.said


def _measured(stage: Stage, here: Path) -> None:
    _quantized(stage, here)
    ending = stage.run(("bench", "out/tiny/local/onnx-int8"))
    assert ending.code == 0, ending.said


def _of_hub(stage: Stage, here: Path) -> None:
    """Write an artifact whose source is on a hub, measured."""
    write_recipe(here)
    stage.start_hub({"someone/tiny": here / "tiny"})
    for arguments in (quantize("onnx-int8", "someone/tiny"), ("bench", "out/someone--tiny/main/onnx-int8")):
        ending = stage.run(arguments)
        assert ending.code == 0, ending.said
    shutil.rmtree(here / "home")


def _study(_: Stage, here: Path) -> None:
    write_recipe(here)
    for step in (0, 1):
        write_checkpoint(here / "runs" / f"step{step}", weights=random_weights(TINY, seed=step))
    (here / "study.yaml").write_text(STUDY)


def quantize(method: str, model: str = "./tiny") -> tuple[str, ...]:
    """Return the arguments that quantize the tiny model."""
    groups = ("--group-size", "32") if method in _SOLVED else ()
    return ("quantize", model, "--method", method, *groups, *_TEXTS, *_FEW, "--out", "out")


def scenes() -> Iterator[Scene]:
    """Yield all scenes."""
    for method in METHODS:
        yield Scene("quantize", method, quantize(method), _tiny)
    yield Scene("quantize", "from a hub", quantize("onnx-int8", "someone/tiny"), _tiny, (("someone/tiny", "tiny"),))
    yield Scene("quantize", "overwrite", (*quantize("onnx-int8"), "--overwrite"), _quantized, replaces=True)
    run = ("run", "tiny.yaml", *_FEW, "--only", "gptq-int4", "--only", "onnx-int8", "--out", "out")
    yield Scene("run", "two variants", run, _tiny)
    yield Scene("bench", "one artifact", ("bench", "out/tiny/local/onnx-int8"), _quantized)
    report = ("report", "out/tiny/local/results.json", "--out", "report", "--format", "csv")
    yield Scene("report", "a page", report, _measured)
    publish = ("publish", "out/someone--tiny/main/onnx-int8", "--repo-id", "me/tiny", "--yes")
    yield Scene("publish", "a new repository", publish, _of_hub, (("someone/tiny", "tiny"),))
    yield Scene("verify", "from a hub", ("verify", "hf://me/pulled"), _of_hub,
                (("me/pulled", "out/someone--tiny/main/onnx-int8"),))  # fmt: skip
    yield Scene("sweep", "two checkpoints", ("sweep", "run", "study.yaml", "--out", "out"), _study)
