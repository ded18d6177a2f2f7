"""What conversions take of memory and disk, beside what the program says before: random checkpoints, fresh processes.

``python benchmarks/memory_forecast.py --sizes 14m 70m 160m --work /tmp/memory``

Memory is the peak of what `pythia-quant convert` and its children hold together (PSS: what several of them map counts
once), ten times a second. Disk is the peak of the output folder, with what is made beside the artifact. A conversion
that ends for lack of memory, or for anything else, is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from peers.watch import FailedError, run

HERE = Path(__file__).resolve().parent
TOKENIZER = HERE.parent / "pythia_quant" / "model" / "demo" / "tokenizer.json"
VARIANTS = {
    "bnb-nf4": "{format: bnb, compute_dtype: bfloat16}",
    "gptq-int4": "{format: gptq}",
    "onnx-int8": "{format: onnx}",
    "onnx-fp32": "{format: onnx, weights: fp32, activations: fp32, embeddings: fp32, head: fp32}",
    "gguf-q8": "{format: gguf, weights: q8_0}",
    "gguf-q4": "{format: gguf, weights: q4_k}",
}
RECIPE = """schema: 1
source: {{model: {source}}}
calibration: {{text: {{file: {calibration}}}, windows: {windows}}}
evaluation: {{text: {{file: {text}}}, windows: 2}}
variants:
{variants}
"""


def make_recipe(size: str, windows: int, work: Path) -> Path:
    """Write the checkpoint, unless it is there, texts and a recipe; return the recipe's path."""
    source = work / size
    if not source.exists():
        script = [sys.executable, HERE / "random_checkpoint.py", size, source, "--tokenizer", TOKENIZER]
        subprocess.run([str(word) for word in script], check=True)
    text, calibration, recipe = work / "text.txt", work / "calibration.txt", work / f"{size}.yaml"
    text.write_text(" ".join(f"word {number}" for number in range(10_000)))
    calibration.write_text(" ".join(f"{number * 7919 % 1_000_003:x} calm" for number in range(60_000)))
    variants = "\n".join(f"  {name}: {settings}" for name, settings in VARIANTS.items())
    recipe.write_text(
        RECIPE.format(source=source, text=text, calibration=calibration, variants=variants, windows=windows)
    )
    return recipe


class Folder:
    """Watches how large a folder becomes."""

    def __init__(self, path: Path) -> None:
        self.path, self.peak_bytes, self._end = path, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Folder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.2):
            total = 0
            for path in self.path.rglob("*"):
                try:
                    total += path.stat().st_blocks * 512
                except OSError:  # renamed or removed meanwhile
                    continue
            self.peak_bytes = max(self.peak_bytes, total)


def measure(recipe: Path, variant: str, needs: dict[str, int], work: Path) -> str:
    """Return a line of the table: what a conversion took, and what was said before."""
    out = work / f"out-{recipe.stem}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = [sys.executable, "-m", "pythia_quant", "convert", str(recipe), "--only", variant, "--out", str(out)]
    try:
        with Folder(out) as folder:
            took = run(command, work / f"{recipe.stem}.log")
    except FailedError as error:
        return f"| {recipe.stem} | {variant} | {error} | | | |"
    ratios = (needs["memory"] / took.peak_bytes, needs["disk"] / folder.peak_bytes)
    numbers = [f"{value / 1e6:,.0f}" for value in (took.peak_bytes, needs["memory"], folder.peak_bytes, needs["disk"])]
    memory, said_memory, disk, said_disk = numbers
    return (
        f"| {recipe.stem} | {variant} | {memory} | {said_memory} ({ratios[0]:.2f}) "
        f"| {disk} | {said_disk} ({ratios[1]:.2f}) |"
    )


def say(recipe: Path) -> None:
    """Print what the program says of each conversion, as JSON."""
    from pythia_quant.artifacts.inputs import load_inputs  # noqa: PLC0415 - in a process of its own
    from pythia_quant.artifacts.plan import needs  # noqa: PLC0415
    from pythia_quant.recipe.recipe import load_recipe  # noqa: PLC0415

    inputs = load_inputs(load_recipe(str(recipe)))
    variants = inputs.recipe.settings.variants
    print(json.dumps({name: needs(inputs, settings)._asdict() for name, settings in variants.items()}))


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["14m", "70m", "160m"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--windows", type=int, default=8, help="of calibration, as long as the context")
    parser.add_argument("--work", type=Path, default=Path("memory-work"))
    parser.add_argument("--said", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.said:
        say(given.said)
        return
    given.work.mkdir(parents=True, exist_ok=True)
    print("| shape | variant | MB of memory | said before | MB of disk | said before |\n|---|---|---|---|---|---|")
    for size in given.sizes:
        recipe = make_recipe(size, given.windows, given.work.resolve())
        command = [sys.executable, __file__, "--said", str(recipe)]
        said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for variant in given.variants:
            print(measure(recipe, variant, said[variant], given.work), flush=True)


if __name__ == "__main__":
    _main()
