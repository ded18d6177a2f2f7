"""An artifact as a folder of a site: its files, and ``model.json``, which says what a page must know of them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from pythia_quant.artifacts.artifact import Artifact, verify_files
from pythia_quant.core.errors import ArtifactError, storing
from pythia_quant.core.text import printable
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.generation_config import read_model
from pythia_quant.model.tokenizer import TOKENIZER
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.web.notice import out_of_scope

MODEL = "model.json"
MOST_BYTES = 2_000_000_000
"""The bytes of weights that a page can hold: browsers refuse larger buffers, and WebAssembly has 4 GiB for them and the
copies that onnxruntime arranges for its kernels."""

_EXAMPLE, _DEMO_EXAMPLE = "The ocean is", "import os"


def check_model(artifact: Artifact) -> None:
    """Refuse an artifact that no page can run.

    Raises:
        ArtifactError: it is of another format, too large, altered or incomplete, or not the graph of this version.
        SourceError: its ``config.json`` is damaged.
    """
    where = str(artifact.folder)
    if not isinstance(artifact.settings, OnnxSettings):
        hint = "`pythia-quant quantize MODEL --method onnx-int8` makes one that does"
        what = f"is {artifact.settings.format}, and only ONNX artifacts run in a browser"
        raise ArtifactError(what, where=where, hint=hint)
    size = artifact.manifest.bytes_on_disk
    if size > MOST_BYTES:
        what = f"has {size / 1e9:.2f} GB of weights, and a page can hold {MOST_BYTES / 1e9:.0f} GB"
        raise ArtifactError(what, where=where, hint="quantize it to fewer bits, or take a smaller model")
    verify_files(artifact)
    from pythia_quant.formats.onnx.graph_check import open_model  # noqa: PLC0415 - only this format needs onnx

    open_model(artifact.folder)


def site_name(artifact: Artifact, taken: set[str]) -> str:
    """Return the name of an artifact's folder in a site, which is not among those that are taken."""
    source = artifact.manifest.source
    model = source.model.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model}-{artifact.manifest.variant}").strip("-.")[:100] or "model"
    return next(each for each in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if each not in taken)


def write_model(artifact: Artifact, folder: Path, name: str) -> None:
    """Copy what a page needs of an artifact that :func:`check_model` accepts, and write ``model.json``.

    Args:
        artifact: the artifact.
        folder: the new folder.
        name: its name in the site.

    Raises:
        StorageError: it cannot be written.
    """
    from pythia_quant.formats.onnx.browser_graph import MOST_UNPACKED, browser_graph  # noqa: PLC0415

    manifest, architecture = artifact.manifest, read_model(artifact.folder, quantized=True)
    (data,) = (path for path in manifest.files if path.startswith("onnx/") and path.endswith("_data"))
    made = {
        # Without limits of length, and without tokens for which the model has no embedding.
        TOKENIZER: artifact.tokenizer.to_str().encode(),
        "wasm.onnx": browser_graph(artifact.folder, unpacked=manifest.source.parameters <= MOST_UNPACKED),
        "webgpu.onnx": browser_graph(artifact.folder, unpacked=False),
    }
    with storing(folder):
        folder.mkdir(parents=True)
        shutil.copyfile(artifact.folder / data, folder / Path(data).name)
        files = {Path(data).name: manifest.files[data].model_dump()}
        for path, content in made.items():
            (folder / path).write_bytes(content)
            files[path] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        record = _record(artifact, architecture, name) | {"data": Path(data).name, "files": files}
        (folder / MODEL).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _record(artifact: Artifact, architecture: Architecture, name: str) -> dict[str, Any]:
    from pythia_quant.formats.onnx import names  # noqa: PLC0415
    from pythia_quant.formats.onnx.rotary import kept_head_size  # noqa: PLC0415

    manifest, tokens = artifact.manifest, architecture.tokens
    is_demo = manifest.source.model.startswith("builtin:")
    layers = range(architecture.layers)
    return {
        "schema": 1,
        "name": name,
        "title": name,
        "variant": printable(manifest.variant),
        "source": _public_source(artifact),
        "bits_per_weight": round(manifest.bits_per_weight, 4),
        "bytes": manifest.bytes_on_disk,
        "shape": {
            "layers": architecture.layers,
            "heads": architecture.heads,
            "head_size": kept_head_size(architecture),
            "vocabulary": architecture.vocabulary,
            "context": architecture.context,
        },
        "cache": {
            "dtype": "float32",
            "inputs": [one for layer in layers for one in names.past(layer)],
            "outputs": [one for layer in layers for one in names.present(layer)],
        },
        "tokens": {"begin": tokens.end if tokens.begin is None else tokens.begin, "ends": list(tokens.ends)},
        "example": _DEMO_EXAMPLE if is_demo else _EXAMPLE,
        "notice": out_of_scope(artifact),
    }


def _public_source(artifact: Artifact) -> dict[str, str | None]:
    """Return what may be said of the source: of a folder only its name, as on a card."""
    source = artifact.manifest.source
    name = source.model if source.commit else source.model.rstrip("/").rpartition("/")[2]
    return {"model": printable(name), "revision": printable(source.revision), "commit": source.commit}
