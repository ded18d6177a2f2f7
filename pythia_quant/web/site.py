"""Write a site: a page, the packages that it runs on, and artifacts."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.core.errors import ArgumentError, storing
from pythia_quant.core.files import scratch_folder
from pythia_quant.core.machine import tool_version
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.web.model_files import check_model, site_name, write_model
from pythia_quant.web.packages import pins, vendor_contents

PAGE, SITE, VENDOR, MODELS = "index.html", "site.json", "vendor", "models"
_MARKER = b'content="pythia-quant web"'
LICENSES = "LICENSES.txt"

_DEVICES = {
    "wasm": {
        "module": "ort.wasm.js",
        "glue": "ort-wasm-simd-threaded.js",
        "wasm": "ort-wasm-simd-threaded.wasm",
    },
    "webgpu": {
        "module": "ort.webgpu.js",
        "glue": "ort-wasm-simd-threaded.asyncify.js",
        "wasm": "ort-wasm-simd-threaded.asyncify.wasm",
    },
}
"""The builds of onnxruntime-web: the second one, 27 MB, is loaded only if the visitor chooses the graphics card."""
_TOKENIZER = "tokenizers.js"


@dataclass(frozen=True)
class Site:
    """A site: its folder, the names of its models, and the bytes of all its files."""

    folder: Path
    models: list[str]
    bytes: int


def check_out(out: Path) -> None:
    """Refuse a folder that is neither empty nor a site of ours.

    Raises:
        ArgumentError: `out` is such a folder, or a file.
    """
    with storing(out):
        if not out.exists() or (out.is_dir() and not any(out.iterdir())) or is_site(out):
            return
    what = "is not empty, and no site of ours" if out.is_dir() else "is a file"
    raise ArgumentError(what, where=str(out), hint="choose another folder for --out")


def is_site(folder: Path) -> bool:
    """Say whether a folder is a site that :func:`write_site` wrote."""
    page = folder / PAGE
    if not (folder / SITE).is_file() or not page.is_file():
        return False
    with page.open("rb") as file:
        return _MARKER in file.read(4096)


def write_site(
    artifacts: Sequence[Artifact], out: Path, *, assets: Path | None = None, progress: Progress = SILENT
) -> Site:
    """Write a site. An earlier one in its place is replaced, and stays if this one cannot be completed.

    Args:
        artifacts: the artifacts, in the order in which the page offers them.
        out: the folder.
        assets: where the packages of others are; see :func:`~pythia_quant.web.packages.vendor_contents`.
        progress: receives what is written.

    Raises:
        ArgumentError: `out` is in use for something else, or the packages of others are nowhere.
        ArtifactError: an artifact cannot run in a browser, or is damaged.
        SourceError: the configuration of an artifact is damaged.
        StorageError: the folder cannot be written.
    """
    check_out(out)
    for artifact in artifacts:
        progress.step(f"checking {artifact.folder.name}", 0, 1)
        check_model(artifact)
    names: list[str] = []
    with scratch_folder(out) as folder:
        with as_file(files(__package__).joinpath("page")) as page:
            shutil.copytree(page, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        vendored = _write_vendor(folder / VENDOR, assets, progress)
        for artifact in artifacts:
            progress.step(f"copying {artifact.folder.name}", 0, 1)
            names.append(site_name(artifact, set(names)))
            write_model(artifact, folder / MODELS / names[-1], names[-1])
        vendor = {"files": vendored, "devices": _DEVICES, "tokenizer": _TOKENIZER}
        site = {"schema": 1, "tool": tool_version(), "models": names, "vendor": vendor}
        (folder / SITE).write_text(json.dumps(site, indent=1) + "\n", encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Site(out, names, size)


def _write_vendor(folder: Path, assets: Path | None, progress: Progress) -> dict[str, dict[str, object]]:
    """Write the files of others and their licences; return size and SHA-256 of each file that a page fetches."""
    folder.mkdir()
    fetched: dict[str, dict[str, object]] = {}
    licenses: dict[str, str] = {
        "onnxruntime-web": files(__package__).joinpath("onnxruntime-web.LICENSE.txt").read_text()
    }
    for file, content in vendor_contents(assets, progress):
        if file.path == "LICENSE":
            licenses[file.package] = content.decode()
            continue
        (folder / file.name).write_bytes(content)
        fetched[file.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    packages, _ = pins()
    parts = [f"{name} {packages[name].version} ({packages[name].license})\n\n{text}" for name, text in licenses.items()]
    (folder / LICENSES).write_text(f"\n{'=' * 78}\n\n".join(parts), encoding="utf-8")
    return fetched
