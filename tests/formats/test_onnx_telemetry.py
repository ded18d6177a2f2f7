"""onnxruntime reports nothing to its makers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_nothing_is_collected(tmp_path: Path) -> None:
    """onnxruntime collects in the home folder, from the moment that it is loaded, unless it runs in somebody's CI."""
    keep = {key: value for key, value in os.environ.items() if key not in ("CI", "ORT_DISABLE_TELEMETRY")}
    folders = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    code = "import pythia_quant.formats.onnx.library"
    subprocess.run([sys.executable, "-c", code], env=keep | folders, check=True)
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name or path.name == ".ses"]
