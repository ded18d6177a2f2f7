"""Whether a model fits in memory whole; what does not is run layer by layer."""

from __future__ import annotations

import torch

from pythia_quant.bench.subject import Subject
from pythia_quant.formats.table import FORMATS
from pythia_quant.model.architecture import Architecture

_LIBRARIES = 700_000_000  # torch, transformers and onnxruntime, imported


def needed(subject: Subject, disk_bytes: int, shape: Architecture, tokens: int) -> int:
    """Estimate the bytes that measuring a row takes with the model whole in memory.

    Weights as the runtime holds them, and their files, which are mapped while they are read; two heads in fp32; three
    times the logits of a window: as run, of the weights, and the reference's.

    Args:
        subject: the row.
        disk_bytes: of the weights' files.
        shape: of the model.
        tokens: in a window.
    """
    if subject.settings is None:
        dtype: torch.dtype = getattr(torch, subject.dtype or "")
        held = shape.parameters * dtype.itemsize
    else:
        held = FORMATS[subject.settings.format].held_bytes(subject.settings, shape, disk_bytes)
    return _LIBRARIES + held + disk_bytes + 4 * shape.vocabulary * (2 * shape.width + 3 * tokens)
