"""Driver of OpenVINO: optimum-intel's export with int8 weights, run by OpenVINO's own CPU plugin.

The plugin is called without optimum's OVModelForCausalLM, whose torch tensors would only add time. It has its default
settings, so it also quantizes activations dynamically.
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
    """Export with weights in int8, embeddings and head included."""
    command = Path(sys.prefix) / "bin" / "optimum-cli"
    options = ["--task", "text-generation-with-past", "--weight-format", "int8"]
    subprocess.run([command, "export", "openvino", "--model", source, *options, out], check=True)


def prepare() -> protocol.Open:
    """Import OpenVINO."""
    import_module("openvino")
    return OpenvinoModel


class OpenvinoModel(protocol.AllPositions):
    """A stateful model: keys and values stay inside the request."""

    def __init__(self, folder: Path, threads: int) -> None:
        openvino = import_module("openvino")
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", settings)
        self._request = compiled.create_infer_request()
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}
        self._length = 0
        version = openvino.__version__.partition("-")[0]
        self.notes = f"openvino {version}, int8 weights; the head computes every position of a prompt"

    def start(self) -> None:
        self._request.reset_state()
        self._length = 0

    def feed(self, ids: list[int]) -> Any:
        total = self._length + len(ids)
        made = {
            "input_ids": np.array([ids]),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self._length, total)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.infer({name: value for name, value in made.items() if name in self._inputs}, share_inputs=True)
        self._length = total
        return self._request.get_tensor("logits").data[0]


if __name__ == "__main__":
    protocol.main(convert, prepare)
