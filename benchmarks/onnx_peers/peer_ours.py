"""Driver of our own artifacts. subjects.py converts them, with the command of the program."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import protocol


def prepare() -> protocol.Open:
    """Import torch and what runs ONNX artifacts."""
    import_module("pythia_quant.formats.onnx.runtime")
    return OurModel


class OurModel:
    """An artifact in the runtime that its format names."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch  # noqa: PLC0415

        from pythia_quant.artifacts.artifact import open_artifact  # noqa: PLC0415
        from pythia_quant.formats.table import format_of  # noqa: PLC0415

        torch.set_num_threads(threads)
        self._tensor = torch.tensor
        self._runtime = format_of(open_artifact(folder).settings).open_runtime(folder, threads)
        self.notes: str = self._runtime.description

    def prefill(self, ids: list[int], capacity: int) -> int:
        return int(self._runtime.prefill(self._tensor(ids), capacity).argmax())

    def step(self, token: int) -> int:
        return int(self._runtime.step(token).argmax())

    def logits(self, ids: list[int]) -> Any:
        return self._runtime.logits(self._tensor([ids]))[0].numpy()


def _refuse(source: Path, out: Path) -> None:
    sys.exit(f"cannot convert {source} to {out} here: that is pythia-quant convert's")


if __name__ == "__main__":
    protocol.main(_refuse, prepare)
