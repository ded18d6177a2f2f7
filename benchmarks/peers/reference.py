"""The fp32 reference that drifts are measured from, kept in a work folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torch import Tensor

from pythia_quant.bench.drift import Reference, make_reference
from pythia_quant.source import Source


def fp32_reference(source: Source, ids: Tensor, work: Path) -> Reference:
    """Return the fp32 reference, computed once for a source and its windows, int64 [windows, context]."""
    key = hashlib.sha256(json.dumps([source.sha256, ids.tolist()]).encode()).hexdigest()[:12]
    folder = work / "references" / key
    if not (folder / "head.npy").exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        make_reference(source.weights, ids, folder)
    return Reference(folder)
