"""What is compared: the environment and driver of each subject, and how its model is made from a checkpoint."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import ENVIRONMENTS
from peers import watch
from peers.environments import UnavailableError, make

from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.recipe import load_recipe

HERE = Path(__file__).parent
DEFAULT_RECIPE = """\
schema: 1
source: {model: builtin:demo}
calibration: {text: {builtin: training}, windows: 16, context: 512}
evaluation: {text: {builtin: held-out}, windows: 2, context: 512}
variants:
  onnx-int8: {format: onnx}
  onnx-fp32: {format: onnx, weights: fp32, embeddings: fp32, head: fp32, activations: fp32}
"""


@dataclass(frozen=True)
class Subject:
    """One row of the tables.

    Attributes:
        name: the row's.
        driver: file and first arguments of its driver.
        bits: of a weight in the layers and in the head, with its share of scales, as read for each token.
        environment: the peer's; None for our own interpreter.
        model: the folder of its model below the size's, shared by rows that differ in threads; None: the checkpoint.
        threads: in place of those asked for.
        recipe: for ours, the recipe file that has a variant of this name.
    """

    name: str
    driver: tuple[str, ...]
    bits: tuple[float, float]
    environment: str | None = None
    model: str | None = None
    threads: int | None = None
    recipe: Path | None = None

    def bytes_per_token(self, shape: Architecture) -> int:
        """Return the bytes of weights that decoding one token reads: all except the embeddings."""
        layers, head = self.bits
        return int(shape.non_embedding_parameters * layers + shape.vocabulary * shape.width * head) // 8

    def folder(self, place: Path) -> Path:
        """Return where its model is, below the folder of one size."""
        if self.model is None:
            return source_folder(place)
        if self.recipe:
            return place / self.model / source_folder(place).resolve().name / "local" / self.name
        return place / self.model

    def command(self, python: Path, *arguments: str | Path) -> list[str | Path]:
        """Return the command that calls its driver."""
        name, *options = self.driver
        return [python, HERE / name, *options, *arguments]


PEERS = (
    Subject("usual", ("peer_usual.py",), (8, 8), "usual", "usual"),
    Subject("llama.cpp Q8_0", ("peer_llama_cpp.py",), (8.5, 8.5), "llama.cpp", "llama.cpp"),
    Subject("OpenVINO int8", ("peer_openvino.py",), (8, 8), "openvino", "openvino"),
    Subject("CTranslate2, 1 thread", ("peer_ctranslate2.py",), (8, 8), "ctranslate2", "ctranslate2", threads=1),
    Subject("CTranslate2", ("peer_ctranslate2.py",), (8, 8), "ctranslate2", "ctranslate2"),
    Subject("torch bf16", ("peer_torch.py", "bf16"), (16, 16)),
    Subject("torch fp32", ("peer_torch.py", "fp32"), (32, 32)),
)


def ours(recipe: Path) -> list[Subject]:
    """Return the variants of a recipe."""
    return [
        Subject(name, ("peer_ours.py",), settings.stored_bits(), model="ours", recipe=recipe)
        for name, settings in load_recipe(recipe).variants().items()
    ]


def choose(recipe: Path | None, only: list[str] | None, work: Path) -> list[Subject]:
    """Return the variants of a recipe, by default ours, and the peers; or those of them whose names are in `only`.

    Raises:
        SystemExit: a name is none of them.
    """
    if recipe is None:
        recipe = work / "onnx.yaml"
        recipe.write_text(DEFAULT_RECIPE)
    found = {subject.name: subject for subject in (*ours(recipe.resolve()), *PEERS)}
    unknown = [name for name in only or () if name not in found]
    if unknown:
        raise SystemExit(f"there is no {unknown[0]!r}; there are {', '.join(found)}")
    return [subject for name, subject in found.items() if not only or name in only]


def interpreters(
    subjects: list[Subject], work: Path, say: Callable[[str], object] = print
) -> tuple[dict[str, Path], dict[str, str]]:
    """Make the environments that subjects need.

    Returns:
        The interpreter of each subject, and for those that cannot have one the reason.
    """
    made: dict[str, Path] = {}
    failed: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for subject in subjects:
        name = subject.environment
        if name is None:
            made[subject.name] = Path(sys.executable)
        elif name in reasons:
            failed[subject.name] = reasons[name]
        else:
            try:
                made[subject.name] = make(name, ENVIRONMENTS[name], work, say)
            except UnavailableError as error:
                failed[subject.name] = reasons[name] = str(error)
    return made, failed


def source_folder(place: Path) -> Path:
    """Return where the checkpoint of a size is, below the size's folder."""
    return place / f"pythia-{place.name}-random"


def convert(subject: Subject, python: Path, source: Path, place: Path, log: Path) -> dict[str, Any]:
    """Make a subject's model and return the time, memory and size of it.

    Args:
        subject: what to make.
        python: its interpreter.
        source: the checkpoint.
        place: the folder of one size.
        log: file for what the tools say.

    Raises:
        FailedError: nothing is left behind.
    """
    folder = subject.folder(place)
    shutil.rmtree(folder, ignore_errors=True)
    command: list[str | Path]
    if subject.recipe:
        options = ["--only", subject.name, "--model", str(source), "--out", str(place / "ours")]
        command = [python, "-m", "pythia_quant", "convert", subject.recipe, *options]
    else:
        folder.mkdir(parents=True)
        command = subject.command(python, "convert", source, folder)
    try:
        watched = watch.run(command, log, {"HF_HUB_OFFLINE": "1"})
    except watch.FailedError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    record: dict[str, Any] = {
        "seconds": watched.seconds,
        "peak_bytes": watched.peak_bytes,
        "file_bytes": model_bytes(folder),
    }
    if subject.recipe:
        arguments = [str(subject.recipe), subject.name, "--model", str(source)]
        again = watch.run([str(python), str(HERE.parent / "peers" / "convert_ours.py"), *arguments], log)
        record["phases"] = json.loads(again.output)
    return record


def model_bytes(folder: Path) -> int:
    """Return the size of a model's files: all but the tokenizer's and the settings'."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(
        path.stat().st_size
        for path in files
        if path.suffix not in (".json", ".txt", ".jinja") and "tokenizer" not in path.name
    )


def measure(subject: Subject, python: Path, place: Path, threads: int, log: Path) -> dict[str, Any]:
    """Measure a subject in a fresh process; see :mod:`protocol`.

    Raises:
        FailedError: the driver failed.
    """
    threads = subject.threads or threads
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = subject.command(python, "measure", subject.folder(place), "--threads", str(threads))
    result: dict[str, Any] = json.loads(watch.run(command, log, limits, look=False).output)
    return result
