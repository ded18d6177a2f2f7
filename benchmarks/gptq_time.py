"""Time GPTQ on a random checkpoint in the shape of a Pythia size, step by step, for settings and versions of the code.

``python benchmarks/gptq_time.py --size 70m --work /tmp/time --row default --row fast:windows=32 --row old@/tmp/old``

A row is a name, ``@`` and a folder with another version of the code, ``:`` and settings of the variant. Each run is a
fresh process; a round runs each row once. With one thread, seconds of the processor say what the work takes even where
other programs run; the check of the finished artifact, in a process of its own, is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
TOKENIZER = HERE.parent / "pythia_quant" / "model" / "demo" / "tokenizer.json"
STEPS = {
    "moments": [
        ("pythia_quant.quantizers.calibration", "Calibration.normalized"),
        ("pythia_quant.quantizers.calibration", "Calibration.outer"),
    ],
    "advancing": [("pythia_quant.quantizers.calibration", "Calibration.advance")],
    "ridge": [("pythia_quant.quantizers.ridge", "choose")],
    "factor": [("pythia_quant.quantizers.gptq", "inverse_factor")],
    "search": [("pythia_quant.quantizers.sections", "Section.fit")],
    "columns": [("pythia_quant.quantizers.gptq", "_column_by_column")],
    "refitting": [("pythia_quant.quantizers.sections", "SideBySide.refit")],
    "moving": [("pythia_quant.quantizers.refine", "move_codes")],
    "errors": [("pythia_quant.quantizers.gptq", "_squared")],
}
"""The functions of each step; none of them calls another one. A version that lacks one leaves its step out."""
RECIPE = """schema: 1
source: {{model: {source}}}
calibration: {{text: {{file: {text}}}, windows: {windows}, context: 512, seed: 0}}
evaluation: {{text: {{builtin: held-out}}, windows: 2, context: 512}}
variants: {{gptq-int4: {{format: gptq{settings}}}}}
"""


@dataclass(frozen=True)
class Row:
    """What is timed.

    Attributes:
        name: the row's.
        code: the folder that ``pythia_quant`` is imported from.
        settings: of the variant, YAML; and ``windows``, those of calibration where they differ from other rows'.
    """

    name: str
    code: Path
    settings: tuple[str, ...]

    @classmethod
    def parse(cls, word: str) -> Row:
        """Read ``NAME[@FOLDER][:KEY=VALUE,KEY=VALUE]``."""
        before, _, settings = word.partition(":")
        name, _, code = before.partition("@")
        return cls(name, Path(code).resolve() if code else HERE.parent, tuple(filter(None, settings.split(","))))

    def recipe(self, source: Path, text: Path, windows: int) -> str:
        """Return a recipe with this row as its variant."""
        chosen = dict(word.split("=", 1) for word in self.settings)
        windows = int(chosen.pop("windows", windows))
        settings = "".join(f", {key}: {value}" for key, value in chosen.items())
        return RECIPE.format(source=source, text=text, windows=windows, settings=settings)


def clocked(times: dict[str, float], step: str, module: str, name: str) -> None:
    """Put a clock of the processor around a function or a method."""
    *within, attribute = name.split(".")
    try:
        owner: Any = import_module(module)
        for part in within:
            owner = getattr(owner, part)
        function: Callable[..., Any] = getattr(owner, attribute)
    except (ImportError, AttributeError):
        return

    def measured(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            times[step] = times.get(step, 0.0) + time.process_time() - started

    setattr(owner, attribute, measured)


def convert_with_clocks(recipe: Path, threads: int) -> dict[str, Any]:
    """Convert in this process; return seconds of the processor, of all and of each step, and on the wall."""
    torch = import_module("torch")
    torch.set_num_threads(threads)
    times: dict[str, float] = {}
    for step, functions in STEPS.items():
        for module, name in functions:
            clocked(times, step, module, name)
    convert = import_module("pythia_quant.artifacts.convert").convert
    loaded = import_module("pythia_quant.recipe.recipe").load_recipe(str(recipe))
    inputs = import_module("pythia_quant.artifacts.inputs").load_inputs(loaded, only=["gptq-int4"])
    with tempfile.TemporaryDirectory(dir=recipe.parent) as out:
        began, started = time.process_time(), time.perf_counter()
        convert(inputs, "gptq-int4", Path(out))
        seconds = {"all": time.process_time() - began, "wall": time.perf_counter() - started}
    return {**seconds, **times}


def measure(row: Row, source: Path, text: Path, windows: int, threads: int) -> dict[str, float]:
    """Time a row once, in a fresh process."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(row.recipe(source, text, windows))
        environment = os.environ | {"PYTHONPATH": str(row.code), "OMP_NUM_THREADS": str(threads)}
        command = [
            sys.executable,
            "-P",
            str(Path(__file__).resolve()),
            "--clocks",
            str(recipe),
            "--threads",
            str(threads),
        ]
        child = subprocess.run(command, env=environment, cwd=row.code, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return found


def make_source(size: str, layers: int | None, work: Path) -> Path:
    """Write the checkpoint, unless it is there, and return its folder."""
    source = work / f"{size}-{layers or 'all'}"
    if not source.exists():
        options = ["--layers", str(layers)] if layers else []
        script = [sys.executable, str(HERE / "random_checkpoint.py"), size, str(source), "--tokenizer", str(TOKENIZER)]
        subprocess.run([*script, *options], check=True, stdout=sys.stderr)
    return source


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="70m")
    parser.add_argument("--layers", type=int, metavar="N", help="instead of the size's number of layers")
    parser.add_argument("--row", action="append", default=[], metavar="NAME[@FOLDER][:KEY=VALUE,…]")
    parser.add_argument("--windows", type=int, default=128, help="calibration windows of 512 tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("gptq-time"), help="folder for checkpoint and artifacts")
    parser.add_argument("--clocks", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.clocks:
        print(json.dumps(convert_with_clocks(given.clocks, given.threads)))
        return
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    source, text = make_source(given.size, given.layers, work), work / "text.txt"
    text.write_text(" ".join(f"word {number}" for number in range(600 * given.windows)))
    rows = [Row.parse(word) for word in given.row or ["default"]]
    found: dict[str, list[dict[str, float]]] = {row.name: [] for row in rows}
    for number in range(given.rounds):
        for row in rows:
            found[row.name].append(measure(row, source, text, given.windows, given.threads))
            print(f"round {number}, {row.name}: {found[row.name][-1]['all']:.1f} s", file=sys.stderr, flush=True)
    for name, rounds in found.items():
        steps = {step: median(each.get(step, 0.0) for each in rounds) for step in ("all", *STEPS, "wall")}
        spread = f"{min(each['all'] for each in rounds):.1f} to {max(each['all'] for each in rounds):.1f}"
        print(f"{name} ({spread}): {', '.join(f'{step} {seconds:.1f}' for step, seconds in steps.items())}")


if __name__ == "__main__":
    _main()
