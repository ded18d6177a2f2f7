"""The drift that each method costs: its weights against the source's, in fp32 arithmetic, on the same windows."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from peers.reference import fp32_reference
from peers.replaced import Replaced, nearest
from peers.store import Record, Store
from peers.watch import FailedError

from gptq_peers import peer
from gptq_peers.methods import GROUP_SIZE, Method
from gptq_peers.unpack import UnreadableError
from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench.quality import compare_logits, run_in_layers
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.table import format_of
from pythia_quant.model.forward import Fp32Layers
from pythia_quant.model.weights import WeightReader

Row = Method | str
"""A method, or the name of one of the recipe's variants."""


@dataclass(frozen=True)
class Quality:
    """What all rows share.

    Attributes:
        inputs: the recipe with its source and texts.
        store: the result file.
        work: folder for references and logs.
        pythons: the interpreter of each program, or why there is none.
        threads: for other programs.
        say: called with a line for every row.
    """

    inputs: Inputs
    store: Store
    work: Path
    pythons: dict[str, Path | str]
    threads: int
    say: Callable[[str], object]

    def run(self, rows: list[Row]) -> None:
        """Measure the rows that the result file does not have; rows that failed are tried again."""
        ids = torch.from_numpy(self.inputs.evaluation)
        reference = fp32_reference(self.inputs.source, ids, self.work)
        if "reference_nll" not in self.store.data:
            self.store.data["reference_nll"] = reference.nll
        for row in rows:
            name = row if isinstance(row, str) else row.name
            settings = self._settings(row)
            found = self.store.data.setdefault("rows", {})
            if found.get(name, {}).get("settings") == settings and "drift" in found[name]:
                continue
            self.say(name)
            record: Record = {"settings": settings, **self._kind(row)}
            try:
                with tempfile.TemporaryDirectory(dir=self.work) as folder:
                    reader, told = self._quantize(row, Path(folder))
                    weights = run_in_layers(Fp32Layers(reader), ids, Path(folder) / "states", name)
                    drift = compare_logits(reference, {name: weights})[name]
                record |= told | {"drift": drift.model_dump()}
            except (FailedError, UnreadableError, PythiaQuantError) as error:
                record["failed"] = str(error)
                self.say(f"{name}: {error}")
            found[name] = record
            self.store.save()

    def _settings(self, row: Row) -> Record:
        return self._variant(row).model_dump(mode="json") if isinstance(row, str) else row.settings()

    def _kind(self, row: Row) -> Record:
        """Return the bits of a weight, and whether the row is by our own quantizer, which bitsandbytes is not."""
        if isinstance(row, Method):
            return {"bits": row.bits, "ours": False}
        variant = self._variant(row)
        return {"bits": int(variant.stored_bits()[0]), "ours": variant.calibrates}

    def _variant(self, name: str) -> VariantSettings:
        return self.inputs.recipe.variants([name])[name]

    def _quantize(self, row: Row, folder: Path) -> tuple[WeightReader, Record]:
        """Return the weights of a row, and what it says of itself; `folder` must exist while the weights are read."""
        source = self.inputs.source
        if isinstance(row, str):
            started = time.perf_counter()
            artifact = convert(self.inputs, row, folder)
            seconds = time.perf_counter() - started
            return format_of(artifact.settings).open_weights(artifact.folder), {"seconds": seconds}
        if row.options is None:
            return nearest(source.weights, row.bits, GROUP_SIZE), {}
        python = self.pythons[row.program]
        if isinstance(python, str):
            raise FailedError(python)
        told, saved = self._made(row, python)
        weights = peer.PROGRAMS[row.program].reader(saved)
        return Replaced(source.weights, lambda layer: torch.from_numpy(weights(layer))), told

    def _made(self, method: Method, python: Path) -> tuple[Record, Path]:
        """Return what a program made of the source and these windows: now, or when another text was measured on."""
        windows = self.inputs.calibration.tolist()
        what = [method.program, method.settings(), self.inputs.source.sha256, windows]
        kept = self.work / "made" / sha256(json.dumps(what).encode()).hexdigest()[:16]
        if not (kept / "told.json").exists():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            told, _ = peer.run(method, python, self.inputs.source.folder, windows, kept, self.threads)
            (kept / "told.json").write_text(json.dumps(told))
        record: Record = json.loads((kept / "told.json").read_text())
        return record, kept / "model"
