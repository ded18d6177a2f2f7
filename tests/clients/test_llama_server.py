"""What `run` reports of a GGUF file is what llama.cpp's own server and transformers say, without this project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from program import succeed
from tiny import write_recipe

from pythia_quant.records.results import load_results

SCRIPT = Path(__file__).with_name("run_llama_server.py")
WINDOWS, CONTEXT = 2, 32
VARIANTS = """\
variants:
  gguf: {format: gguf, quantizer: nearest, weights: q4_0, head: q8_0}
latency: {rounds: 0}
"""


@pytest.mark.slow
def test_the_kl_of_a_finished_run_is_that_of_llama_cpp_and_transformers(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    head = recipe.read_text().partition("variants:")[0].replace("windows: 6", f"windows: {WINDOWS}")
    recipe.write_text(head + VARIANTS)
    succeed("run", recipe, "--out", tmp_path / "out")
    (file,) = (tmp_path / "out").rglob("*.gguf")
    (path,) = (tmp_path / "out").rglob("results.json")
    drift = load_results(path).rows[-1].as_run
    assert drift is not None
    job = {"source": str(tmp_path / "tiny"), "file": str(file), "text": str(tmp_path / "evaluation.txt")}
    arguments = json.dumps(job | {"windows": WINDOWS, "context": CONTEXT})
    done = subprocess.run(
        [sys.executable, str(SCRIPT), arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert not answer["imported"]
    assert min(answer["kl"]) > 1e-4
    assert drift.kl == pytest.approx(answer["kl"], rel=1e-3)
