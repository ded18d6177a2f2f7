"""Time the conversion of a random checkpoint in the shape of a Pythia size, in fresh processes, step by step.

``python benchmarks/conversion.py --size 410m --rounds 3 --work /tmp/conversion``

A round is one `pythia-quant convert` as users run it, and one with clocks around the functions that take the time. Its
steps are seconds on the wall within its process; the check runs in a process of its own, which imports what it needs
while the first one writes. Peaks are VmHWM.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

STEPS = {
    "reading": [("pythia_quant.model.weights", "WeightFiles.read")],
    "equalizing": [("pythia_quant.formats.onnx.writer", "equalize")],
    "quantizing": [("pythia_quant.quantizers.blocks", "quantize")],
    "writing": [("pythia_quant.formats.onnx.data_file", "ExternalWriter.add")],
    "probe": [("pythia_quant.model.forward", "Forward.layer")],
    "hashing": [("pythia_quant.core.file_hashes", "sha256")],
    "check": [("pythia_quant.core.process", "Worker.call")],
}
"""The functions of each step; none of them calls another one."""
VARIANT = "onnx-int8"
RECIPE = """schema: 1
source: {{model: {source}}}
evaluation: {{text: {{file: {text}}}, windows: 2}}
variants:
  onnx-int8: {{format: onnx, weights: int8, block_size: 64, activations: int8, embeddings: int8, head: int8}}
"""
HERE = Path(__file__).resolve().parent
TOKENIZER = HERE.parent / "pythia_quant" / "model" / "demo" / "tokenizer.json"


def make_inputs(size: str, layers: int | None, work: Path) -> Path:
    """Write the checkpoint, unless it exists, a text and a recipe; return the recipe's path."""
    source = work / f"{size}-{layers or 'all'}"
    if not source.exists():
        options = ["--layers", str(layers)] if layers else []
        script = [sys.executable, str(HERE / "random_checkpoint.py"), size, str(source), "--tokenizer", str(TOKENIZER)]
        subprocess.run([*script, *options], check=True)
    text, recipe = work / "text.txt", work / f"{source.name}.yaml"
    text.write_text(" ".join(f"word {number}" for number in range(10_000)))
    recipe.write_text(RECIPE.format(source=source, text=text))
    return recipe


def run(command: list[str]) -> tuple[dict[str, float], str]:
    """Run a command to its end.

    Returns:
        Seconds on the wall and of the processor, its children included; and its standard output.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": ended - started, "processor": processor}, output


def peak_bytes() -> int:
    """Return this process's peak of resident memory, VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def timed(times: dict[str, float], step: str, module: str, name: str) -> None:
    """Put a clock around a function or a method."""
    *within, attribute = name.split(".")
    owner: Any = import_module(module)
    for part in within:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, attribute)

    def clocked(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            times[step] = times.get(step, 0.0) + time.perf_counter() - started

    setattr(owner, attribute, clocked)


def convert_with_clocks(recipe: Path, out: Path) -> dict[str, Any]:
    """Convert in this process; the check runs in a process that it starts.

    Returns:
        Seconds of each step, and ``peak_bytes`` of this process.
    """
    started = time.perf_counter()
    from pythia_quant.artifacts.convert import convert  # noqa: PLC0415 - the import is measured
    from pythia_quant.artifacts.inputs import load_inputs  # noqa: PLC0415
    from pythia_quant.recipe.recipe import load_recipe  # noqa: PLC0415

    times: dict[str, float] = {}
    for step, functions in STEPS.items():
        for module, name in functions:
            timed(times, step, module, name)
    times["imports"] = time.perf_counter() - started
    convert(load_inputs(load_recipe(str(recipe)), only=[VARIANT]), VARIANT, out)
    return {"seconds": times | {"all": time.perf_counter() - started}, "peak_bytes": peak_bytes()}


def check_alone(artifact: Path) -> dict[str, Any]:
    """Check an artifact in this process as a conversion does in one that it starts; return its peak and seconds."""
    started = time.perf_counter()
    from pythia_quant.artifacts.check import check_artifact  # noqa: PLC0415 - the import is measured

    settings = json.loads((artifact / "pythia_quant.json").read_text())["settings"]
    imported = time.perf_counter()
    check_artifact(str(artifact), settings, [list(range(64)), list(range(64, 128))], os.cpu_count() or 1)
    return {
        "seconds": {"imports": imported - started, "check": time.perf_counter() - imported},
        "peak_bytes": peak_bytes(),
    }


def measure(recipe: Path, out: Path) -> dict[str, Any]:
    """Measure one round."""
    shutil.rmtree(out, ignore_errors=True)
    whole, _ = run([sys.executable, "-m", "pythia_quant", "convert", str(recipe), "--only", VARIANT, "--out", str(out)])
    shutil.rmtree(out)
    _, steps = run([sys.executable, __file__, "--clocks", str(recipe), str(out)])
    (manifest,) = out.rglob("pythia_quant.json")
    _, check = run([sys.executable, __file__, "--check", str(manifest.parent)])
    return {"whole": whole, "steps": json.loads(steps), "check": json.loads(check)}


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="410m")
    parser.add_argument("--layers", type=int, metavar="N", help="instead of the size's number of layers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("conversion-work"), help="folder for checkpoint and artifact")
    parser.add_argument("--clocks", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.clocks:
        print(json.dumps(convert_with_clocks(*given.clocks)))
        return
    if given.check:
        print(json.dumps(check_alone(given.check)))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    recipe = make_inputs(given.size, given.layers, given.work.resolve())
    rounds = [measure(recipe, given.work / "out") for _ in range(given.rounds)]
    for part in ("wall", "processor"):
        print(f"{part}: {median(one['whole'][part] for one in rounds):.1f} s")
    for part in ("steps", "check"):
        seconds = {name: median(one[part]["seconds"][name] for one in rounds) for name in rounds[0][part]["seconds"]}
        described = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        print(f"{part}: {described} s; peak {max(one[part]['peak_bytes'] for one in rounds) / 1e6:,.0f} MB")


if __name__ == "__main__":
    _main()
