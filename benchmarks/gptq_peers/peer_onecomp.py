"""Driver of OneCompression, run by its own interpreter: quantize a checkpoint and print what it took, one line of JSON.

``peer_onecomp.py SOURCE IDS OUT OPTIONS``, the last as JSON: ``quantizer``, gptq or jointq, its arguments, and ``qep``.
OUT gets the weights that its integers stand for, in fp32.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # peers/ is shared with other benchmarks

from peers.process import forget_peak, keep_stdout, memory


def _quantizer(options: dict[str, Any]) -> Any:
    """Make the quantizer; GPTQ and JointQ have other names for the same settings."""
    quantizers = import_module("onecomp.quantizer")
    bits, size, kind = options.pop("bits"), options.pop("group_size"), options.pop("quantizer")
    if kind == "jointq":
        return quantizers.JointQ(bits=bits, group_size=size, **options)
    return quantizers.GPTQ(wbits=bits, groupsize=size, **options)


def quantize(source: Path, ids: list[list[int]], out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Quantize a checkpoint, and write the weights of its linear layers to ``OUT/weights.safetensors``.

    Args:
        source: the checkpoint.
        ids: calibration windows.
        out: folder to write.
        options: see above.

    Returns:
        Seconds of each part, and bytes held before and at the peak.
    """
    torch, library, save_file = (import_module(name) for name in ("torch", "onecomp", "safetensors.torch"))
    import_module("onecomp.qep._quantize_with_qep")
    forget_peak()
    held = memory()["VmRSS"]
    qep = {"qep": True, "qep_config": library.QEPConfig(general=True, device="cpu")} if options.pop("qep", 0) else {}
    quantizer = _quantizer(options)
    config = library.ModelConfig(path=str(source), dtype="float32", device="cpu")
    runner = library.Runner(model_config=config, quantizer=quantizer, **qep)
    rows = torch.tensor(ids)
    inputs = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
    for name, module in list(sys.modules.items()):  # these windows instead of a text that it would fetch
        if name.startswith("onecomp") and hasattr(module, "prepare_calibration_dataset"):
            module.prepare_calibration_dataset = lambda *_, **__: inputs  # type: ignore[attr-defined]
    started = time.perf_counter()
    runner.run()
    ended = time.perf_counter()
    linears = {
        name: result.compute_dequantized_weight().float().contiguous() for name, result in quantizer.results.items()
    }
    out.mkdir()
    save_file.save_file(linears, out / "weights.safetensors")
    return {
        "phases": {"quantize": ended - started},
        "held_bytes": held,
        "peak_bytes": memory()["VmHWM"],
        "version": getattr(library, "__version__", ""),
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
    result = quantize(given.source, json.loads(given.ids.read_text()), given.out, given.options)
    print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    _main()
