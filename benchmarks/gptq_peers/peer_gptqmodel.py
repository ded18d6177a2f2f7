"""Driver of gptqmodel, run by its own interpreter: quantize a checkpoint and print what it took, one line of JSON.

``peer_gptqmodel.py SOURCE IDS OUT OPTIONS``, the last as JSON: fields of its QuantizeConfig, and
``dtype`` to load the checkpoint in another than its default.
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

TABLES = {"embedding": ("gpt_neox.embed_in.weight",), "head": ("embed_out.weight", "lm_head.weight")}
"""transformers 5 calls the checkpoint's embed_out lm_head. A table that is not found holds random numbers."""


def quantize(source: Path, ids: list[list[int]], out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Quantize a checkpoint into a folder.

    Args:
        source: the checkpoint.
        ids: calibration windows.
        out: folder to write.
        options: fields of QuantizeConfig, and ``dtype``.

    Returns:
        Seconds of each part, bytes held before and at the peak, and the dtype that the calibration ran in.
    """
    library = import_module("gptqmodel")
    torch = import_module("torch")
    forget_peak()
    held = memory()["VmRSS"]
    dtype = options.pop("dtype", None)
    if "gptaq" in options:
        options["gptaq"] = import_module("gptqmodel.quantization.config").GPTAQConfig(**options["gptaq"])
    started = time.perf_counter()
    # Layers stay in memory, as ours do: to write a layer to disk and read it again would only take longer.
    config = library.QuantizeConfig(offload_to_disk=False, **options)
    model = library.GPTQModel.load(str(source), config, **({"dtype": getattr(torch, dtype)} if dtype else {}))
    loaded = time.perf_counter()
    ran_in = str(next(model.model.parameters()).dtype).removeprefix("torch.")
    check_tables(model.model, source)
    windows = [{"input_ids": window, "attention_mask": [1] * len(window)} for window in ids]
    began = time.perf_counter()
    model.quantize(windows)
    quantized = time.perf_counter()
    model.save(str(out))
    saved = time.perf_counter()
    return {
        "phases": {"load": loaded - started, "quantize": quantized - began, "save": saved - quantized},
        "held_bytes": held,
        "peak_bytes": memory()["VmHWM"],
        "dtype": ran_in,
        "version": library.__version__,
        "threads": torch.get_num_threads(),
    }


def check_tables(model: Any, source: Path) -> None:
    """Refuse a model whose embedding or head is not the checkpoint's, because gptqmodel did not find its name.

    Raises:
        SystemExit: naming the table.
    """
    safe_open = import_module("safetensors").safe_open
    held = dict(model.named_parameters())
    for file in source.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for table, names in TABLES.items():
                stored = [opened.get_tensor(name) for name in names if name in opened.keys()]  # noqa: SIM118
                inside = [held[name] for name in names if name in held]
                if stored and not (inside and bool((inside[0] == stored[0].to(inside[0].dtype)).all())):
                    sys.exit(f"the {table} that gptqmodel loaded is not the checkpoint's")


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("ids", type=Path, help="JSON: windows of token ids")
    parser.add_argument("out", type=Path)
    parser.add_argument("options", type=json.loads)
    given = parser.parse_args()
    answers = keep_stdout()
    os.chdir(given.out.parent)  # it writes a folder of logs into the current folder
    result = quantize(given.source, json.loads(given.ids.read_text()), given.out, given.options)
    print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    _main()
