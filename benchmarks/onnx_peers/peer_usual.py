"""Driver of the usual route to ONNX int8: optimum's export, then onnxruntime's quantize_dynamic per channel.

It runs in onnxruntime alone, and keys and values go from one run to the next without a copy. We do not know whether
that is faster than optimum's ORTModelForCausalLM: on a busy machine the noise was larger than the difference.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import protocol


def convert(source: Path, out: Path) -> None:
    """Export with optimum-cli and quantize the graph; the fp32 graph is removed."""
    exported = out / "exported"
    command = Path(sys.prefix) / "bin" / "optimum-cli"
    task = ["--task", "text-generation-with-past"]
    subprocess.run([command, "export", "onnx", "--model", source, *task, exported], check=True)
    quantization = import_module("onnxruntime.quantization")
    size = sum(file.stat().st_size for file in exported.glob("model.onnx*"))
    quantization.quantize_dynamic(
        exported / "model.onnx",
        out / "model.onnx",
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        use_external_data_format=size > 2_000_000_000,  # protobuf's limit
    )
    for file in exported.glob("model.onnx*"):
        file.unlink()


def prepare() -> protocol.Open:
    """Import onnxruntime."""
    import_module("onnxruntime")
    return ExportedModel


class ExportedModel(protocol.AllPositions):
    """An exported decoder, whose past is an input and whose present is an output."""

    def __init__(self, folder: Path, threads: int) -> None:
        ort = import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self._value = ort.OrtValue.ortvalue_from_numpy
        inputs = {each.name: each.shape for each in self._session.get_inputs()}
        self._past = {name: shape for name, shape in inputs.items() if name.startswith("past_key_values")}
        self._named = [name for name in inputs if name not in self._past]
        self._outputs = [each.name for each in self._session.get_outputs()]
        self._state: dict[str, Any] = {}
        self._length = 0
        self.notes = f"onnxruntime {ort.__version__}, exported graph; the head computes every position of a prompt"

    def start(self) -> None:
        self._length = 0
        self._state = {
            name: self._value(np.zeros((1, shape[1], 0, shape[3]), np.float32)) for name, shape in self._past.items()
        }

    def feed(self, ids: list[int]) -> Any:
        total = self._length + len(ids)
        made = {
            "input_ids": np.array([ids]),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self._length, total)[None],
        }
        feeds = self._state | {name: self._value(made[name]) for name in self._named}
        results = dict(zip(self._outputs, self._session.run_with_ort_values(self._outputs, feeds), strict=True))
        self._length = total
        self._state = {name: results[name.replace("past_key_values", "present")] for name in self._past}
        return results["logits"].numpy()[0]


if __name__ == "__main__":
    protocol.main(convert, prepare)
