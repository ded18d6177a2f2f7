"""What measuring drift costs beyond running the model: ``python benchmarks/harness_cost.py MODEL --windows 64``.

Each window runs twice in one process. First bare: the forward pass, and the product of the reference's hidden states
with its head, both of which every measurement needs. Then through the harness. Tokens are random, and the default
dtype is fp32. Peak memory is that of two other processes, of which one measures some of the windows and one measures
all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from pythia_quant.bench.drift import Tally
from pythia_quant.bench.latency import peak_rss
from pythia_quant.bench.quality import compare_logits, run_whole
from pythia_quant.bench.reference import Reference, open_reference
from pythia_quant.core import machine
from pythia_quant.core.precision import exact_products
from pythia_quant.core.progress import SILENT
from pythia_quant.model.source import open_weights
from pythia_quant.runtimes.protocol import States
from pythia_quant.runtimes.transformers import open_model


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a checkpoint; random_checkpoint.py makes one")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--work", type=Path, required=True, help="folder for the reference")
    parser.add_argument("--peak", action="store_true", help="only measure all windows, and print the peak memory")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    weights, dtype = open_weights(given.model), getattr(torch, given.dtype)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(weights.architecture.vocabulary, (given.windows, given.context), generator=generator)
    expected = open_reference(weights, {"model": str(given.model)}, ids, SILENT, given.work)
    logits = open_model(given.model, dtype).logits
    if given.peak:
        compare_logits(expected, {"": run_whole(logits, ids)})
        print(peak_rss())
        return
    bare, through = _compare(expected, logits, ids)
    ratios = [harness / plain for plain, harness in zip(bare, through, strict=True)]
    print(f"{machine.cpu()}, {given.threads} threads, {given.dtype}, {given.windows} windows of {given.context}")
    print(f"bare {sum(bare):.1f} s, harness {sum(through):.1f} s: ratio {sum(through) / sum(bare):.3f}")
    print(f"by window: median {median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    for windows in (max(2, given.windows // 8), given.windows):
        command = [sys.executable, __file__, *sys.argv[1:], "--peak", "--windows", str(windows)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"peak memory with {windows} windows: {peak / 1e6:,.0f} MB")


@torch.inference_mode()
def _compare(expected: Reference, logits: Callable[[Tensor], Tensor], ids: Tensor) -> tuple[list[float], list[float]]:
    head = expected._load("head").T
    hidden = States(expected.folder / "hidden", len(ids), ids.shape[1], len(head), torch.float32)
    of, tally, buffer = run_whole(logits, ids), Tally(), torch.empty(0)
    bare, through = [], []
    for window in range(len(ids)):
        states = hidden.read(slice(window, window + 1))[0]
        started = time.perf_counter()
        logits(ids[window : window + 1])
        with exact_products():
            torch.matmul(states, head, out=buffer.resize_(0))
        bare.append(time.perf_counter() - started)
        started = time.perf_counter()
        tally.add(expected.compare(window, [of(window)])[0])
        through.append(time.perf_counter() - started)
    return bare, through


if __name__ == "__main__":
    _main()
