"""The fp32 reference that drifts are measured from, kept in a work folder."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pythia_quant.bench.reference import Reference, open_reference
from pythia_quant.core.progress import SILENT
from pythia_quant.model.source import Source


def fp32_reference(source: Source, ids: Tensor, work: Path) -> Reference:
    """Return the fp32 reference, computed once for a source and its windows, int64 [windows, context]."""
    return open_reference(source.weights, source.sha256, ids, SILENT, work / "references")
