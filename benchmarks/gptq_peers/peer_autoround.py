"""Driver of AutoRound, run by its own interpreter: quantize a checkpoint and print what it took, one line of JSON.

``peer_autoround.py SOURCE IDS OUT OPTIONS``, the last as JSON: arguments of AutoRound. OUT gets the weights that its
integers stand for, as it leaves them in the model, in fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # peers/ is shared with other benchmarks

from peers.process import forget_peak, keep_stdout, memory


def quantize(source: Path, ids: list[list[int]], out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Quantize a checkpoint, and write the weights of its linear layers to ``OUT/weights.safetensors``.

    Args:
        source: the checkpoint.
        ids: calibration windows.
        out: folder to write.
        options: arguments of AutoRound.

    Returns:
        Seconds of each part, and bytes held before and at the peak.
    """
    torch, transformers = import_module("torch"), import_module("transformers")
    library, save_file = import_module("auto_round"), import_module("safetensors.torch").save_file
    forget_peak()
    held, started = memory()["VmRSS"], time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(source))
    loaded = time.perf_counter()
    rows = [torch.tensor([window]) for window in ids]
    made = library.AutoRound(
        model, tokenizer, dataset=rows, nsamples=len(rows), seqlen=len(ids[0]), device_map="cpu",
        enable_torch_compile=False, **options,
    )  # fmt: skip
    quantized, _ = made.quantize()
    ended = time.perf_counter()
    linears = {
        name: module.weight.detach().float().contiguous()
        for name, module in quantized.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }
    if not linears:
        sys.exit("AutoRound left no linear layers in the model")
    out.mkdir()
    save_file(linears, out / "weights.safetensors")
    return {
        "phases": {"load": loaded - started, "quantize": ended - loaded},
        "held_bytes": held,
        "peak_bytes": memory()["VmHWM"],
        "version": library.__version__,
        "threads": torch.get_num_threads(),
    }


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("ids", type=Path, help="JSON: windows of token ids")
    parser.add_argument("out", type=Path)
    parser.add_argument("options", type=json.loads)
    given = parser.parse_args()
    answers = keep_stdout()
    os.chdir(given.out.parent)  # it writes a folder of its own into the current folder
    result = quantize(given.source, json.loads(given.ids.read_text()), given.out, given.options)
    print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    _main()
