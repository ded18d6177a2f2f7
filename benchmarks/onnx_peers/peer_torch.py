"""Driver of the checkpoint itself in transformers, through the runtime that our tables use for their baselines."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import protocol


def prepare_bf16() -> protocol.Open:
    """Import torch and transformers; models are opened in bf16."""
    import_module("pythia_quant.runtimes.transformers")
    return lambda folder, threads: TorchModel(folder, threads, "bfloat16")


def prepare_fp32() -> protocol.Open:
    """Import torch and transformers; models are opened in fp32."""
    import_module("pythia_quant.runtimes.transformers")
    return lambda folder, threads: TorchModel(folder, threads, "float32")


class TorchModel:
    """A checkpoint in transformers."""

    def __init__(self, folder: Path, threads: int, dtype: str) -> None:
        self._torch: Any = import_module("torch")
        self._torch.set_num_threads(threads)
        opener = import_module("pythia_quant.runtimes.transformers").open_model
        self._runtime: Any = opener(folder, getattr(self._torch, dtype))
        self.notes: str = self._runtime.description

    def prefill(self, ids: list[int], capacity: int) -> int:
        return int(self._runtime.prefill(self._torch.tensor(ids), capacity).argmax())

    def step(self, token: int) -> int:
        return int(self._runtime.step(token).argmax())

    def logits(self, ids: list[int]) -> Any:
        return self._runtime.logits(self._torch.tensor([ids]))[0].numpy()


def _refuse(source: Path, out: Path) -> None:
    sys.exit(f"{source} is run as it is; there is nothing to convert to {out}")


if __name__ == "__main__":
    DTYPES = {"bf16": prepare_bf16, "fp32": prepare_fp32}
    protocol.main(_refuse, DTYPES[sys.argv.pop(1)])
