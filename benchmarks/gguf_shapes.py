"""Every Pythia shape at reduced depth as GGUF, in llama.cpp: ``python benchmarks/gguf_shapes.py --work /tmp/shapes``.

Random weights in a shape's true widths, heads and vocabulary are written as GGUF, rounded to nearest, and llama.cpp's
logits are compared with those of the weights in the file, in fp32. The error is relative to the norm of the logits;
what is left is llama.cpp's rounding of activations to 8 bits. Each shape has a process of its own; peaks are VmHWM of
the conversion, less what the imports took. No tensor of a layer stays in memory, so a peak does not depend on depth.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from conversion import TOKENIZER, peak_bytes
from random_checkpoint import architecture_of, write_checkpoint

from pythia_quant.model.suite import SIZES

MOST = 0.02
"""The relative error that is no defect: that of tests/formats/test_gguf_artifact.py."""


def convert_and_compare(source: Path, folder: Path, kind: str) -> dict[str, float]:
    """Convert a checkpoint, and run it; return seconds and the peak of the conversion, and the error of the logits."""
    import torch  # noqa: PLC0415 - a process that only starts others needs no torch

    from pythia_quant.formats.gguf.runtime import open_runtime  # noqa: PLC0415
    from pythia_quant.formats.gguf.writer import write  # noqa: PLC0415
    from pythia_quant.formats.job import Job  # noqa: PLC0415
    from pythia_quant.model.source import open_weights  # noqa: PLC0415
    from pythia_quant.recipe.gguf_variant import GgufSettings  # noqa: PLC0415

    folder.mkdir()
    shutil.copyfile(TOKENIZER, folder / "tokenizer.json")
    settings = GgufSettings.model_validate({"format": "gguf", "quantizer": "nearest", "weights": kind})
    probe = torch.randint(4096, (1, 16), generator=torch.Generator().manual_seed(0))
    before, started = peak_bytes(), time.perf_counter()
    wanted = write(Job(open_weights(source), settings, folder, probe)).logits
    seconds, peak = time.perf_counter() - started, peak_bytes() - before
    error = (open_runtime(folder, threads=2).logits(probe) - wanted).norm() / wanted.norm()
    return {"seconds": seconds, "peak": peak, "error": float(error)}


def main() -> None:
    """Measure all shapes; end with 1 if one of them differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for one shape at a time")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--type", default="q4_0", help="of the layers; embeddings and head are q8_0")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        source, folder = given.one
        print(json.dumps(convert_and_compare(source, folder, given.type)))
        return
    wrong = 0
    for size in given.sizes:
        source, folder = given.work / f"{size}-source", given.work / f"{size}-gguf"
        write_checkpoint(architecture_of(size, given.layers), source, TOKENIZER)
        command = [sys.executable, __file__, "--work", str(given.work), "--type", given.type]
        output = subprocess.run(
            [*command, "--one", str(source), str(folder)], check=True, capture_output=True, text=True
        )
        found = json.loads(output.stdout.splitlines()[-1])
        good = found["error"] < MOST
        wrong += not good
        verdict = "" if good else " (too much)"
        took = f"converted in {found['seconds']:.1f} s with {found['peak'] / 1e6:,.0f} MB"
        print(f"{size:>5} {given.type}: logits differ by {found['error']:.4f}{verdict}; {took}", flush=True)
        shutil.rmtree(source)
        shutil.rmtree(folder)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
