"""Time our conversion to GGUF beside llama.cpp's converter and a llama-quantize, in turn, each a fresh process.

``python benchmarks/gguf_conversion.py --tokenizer F --converter F --llama-quantize F --work FOLDER --out FILE``

The source is a random checkpoint in the shape of a Pythia size; its tokenizer must be Pythia's own, as llama.cpp's
converter takes no other. The converter needs a Python with a transformers before version 5: ``--converter-python``.
Ours is ``pythia-quant convert``, which also hashes the source, reads the file back and runs it. Theirs writes the file
and no more. Seconds and peaks are those of /usr/bin/time; a peak is that of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

from random_checkpoint import architecture_of, write_checkpoint

from pythia_quant.bench.conditions import OtherPrograms

RECIPE = """schema: 1
source: {{model: {source}}}
evaluation: {{text: {{file: {text}}}, windows: 2}}
variants:
  gguf-q8: {{format: gguf, weights: q8_0, quantizer: nearest}}
  gguf-q4-nearest: {{format: gguf, weights: q4_0, quantizer: nearest}}
"""
Step = dict[str, float]


def timed(command: list[str], environment: dict[str, str], log: Path) -> Step:
    """Run a command to its end; return its seconds on the wall and of the processor, and its peak in bytes."""
    figures = log.with_suffix(".time")
    with log.open("ab") as messages:
        subprocess.run(
            ["/usr/bin/time", "-f", "%e %U %S %M", "-o", str(figures), *command],
            env=os.environ | environment,
            stdout=messages,
            stderr=messages,
            check=True,
        )
    wall, user, system, peak = (float(word) for word in figures.read_text().split())
    return {"wall": wall, "processor": user + system, "peak": 1024 * peak}


def together(steps: list[Step]) -> Step:
    """Return what steps one after the other take."""
    return {
        "wall": sum(step["wall"] for step in steps),
        "processor": sum(step["processor"] for step in steps),
        "peak": max(step["peak"] for step in steps),
    }


def theirs(given: argparse.Namespace, source: Path, folder: Path, log: Path) -> dict[str, Step]:
    """Convert to Q8_0 by the converter alone, and to Q4_0 by way of a file in F16."""
    half, four, eight = (folder / f"{name}.gguf" for name in ("f16", "q4_0", "q8_0"))
    convert = [str(given.converter_python), str(given.converter), str(source), "--outtype"]
    program = [str(given.llama_quantize), "--pure", "--output-tensor-type", "q8_0", "--token-embedding-type", "q8_0"]
    found = {"llama.cpp q8_0": timed([*convert, "q8_0", "--outfile", str(eight)], given.environment, log)}
    to_half = timed([*convert, "f16", "--outfile", str(half)], given.environment, log)
    quantizing = timed([*program, str(half), str(four), "Q4_0", str(given.threads)], given.environment, log)
    found["llama.cpp f16, for q4_0"], found["llama-quantize q4_0"] = to_half, quantizing
    return found | {"llama.cpp q4_0": together([to_half, quantizing])}


def ours(given: argparse.Namespace, recipe: Path, folder: Path, log: Path) -> dict[str, Step]:
    """Convert to both variants of the recipe."""
    command = [sys.executable, "-m", "pythia_quant", "convert", str(recipe), "--out", str(folder), "--only"]
    return {name: timed([*command, name], given.environment, log) for name in ("gguf-q8", "gguf-q4-nearest")}


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="410m")
    parser.add_argument("--tokenizer", type=Path, required=True, help="Pythia's tokenizer.json")
    parser.add_argument("--converter", type=Path, required=True, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--converter-python", type=Path, default=sys.executable, help="which runs it")
    parser.add_argument("--llama-quantize", type=Path, required=True, help="the program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="result file, JSON")
    given = parser.parse_args()
    given.environment = {"OMP_NUM_THREADS": str(given.threads)}
    work: Path = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    source, text, recipe = work / given.size, work / "text.txt", work / "recipe.yaml"
    if not source.exists():
        write_checkpoint(architecture_of(given.size), source, given.tokenizer)
    text.write_text(" ".join(f"word {number}" for number in range(10_000)))
    recipe.write_text(RECIPE.format(source=source, text=text))
    others = OtherPrograms()
    rounds: list[dict[str, Step]] = []
    folder, log = work / "out", work / "log"
    for number in range(given.rounds):
        found: dict[str, Step] = {}
        for is_ours in (True, False) if number % 2 else (False, True):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            found |= ours(given, recipe, folder, log) if is_ours else theirs(given, source, folder, log)
            given.out.write_text(json.dumps({"rounds": [*rounds, found], "others": others.share()}, indent=1))
        shutil.rmtree(folder)
        rounds.append(found)
    for name in rounds[0]:
        wall, processor, peak = ([one[name][part] for one in rounds] for part in ("wall", "processor", "peak"))
        spread = f"({min(wall):.1f} to {max(wall):.1f})"
        said = (
            f"{median(wall):.1f} s {spread}, of the processor {median(processor):.1f} s, peak {max(peak) / 1e6:,.0f} MB"
        )
        print(f"{name}: {said}")
    for one, other in (("gguf-q8", "llama.cpp q8_0"), ("gguf-q4-nearest", "llama.cpp q4_0")):
        for part in ("wall", "processor"):
            ratios = [found[one][part] / found[other][part] for found in rounds]
            print(f"{one} to {other}, {part}: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"Others took {others.share():.0%} of the processors.")


if __name__ == "__main__":
    _main()
