"""What optimum exports of a checkpoint is measured by bench: as it is, quantized, and as a merged decoder."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from program import succeed
from test_clients import OPTIMUM_PYTHON
from tiny import TINY, write_recipe

from pythia_quant.formats.table import FOREIGN
from pythia_quant.records.results import load_results
from pythia_quant.runtimes.protocol import generate

SCRIPT = Path(__file__).with_name("run_optimum_export.py")


@pytest.mark.slow
def test_optimum_exports_are_measured(tmp_path: Path) -> None:
    python = os.environ.get(OPTIMUM_PYTHON)
    if python is None:
        pytest.skip(f"optimum is not tested: 'make optimum' does, in an environment of its own ({OPTIMUM_PYTHON})")
    recipe = write_recipe(tmp_path)
    source, out = tmp_path / "tiny", tmp_path / "theirs"
    recipe.write_text(recipe.read_text().replace("rounds: 1", "rounds: 0"))
    job = json.dumps({"source": str(source), "out": str(out)})
    done = subprocess.run([python, str(SCRIPT), job], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    paths = {name: out / path for name, path in json.loads(done.stdout.splitlines()[-1]).items()}
    options = ("--source", source, "--recipe", recipe, "--out", tmp_path / "out")
    assert "ONNX graph, weights of 8 bits or fewer" in " ".join(succeed("bench", *paths.values(), *options).split())
    rows = {row.name.partition("-")[0]: row for row in load_results(tmp_path / "out/results.json").rows}
    assert [rows[name].quantized for name in paths] == [False, True, False]
    kl = {name: torch.tensor(drift.kl).mean() for name in paths if (drift := rows[name].as_run)}
    assert max(kl["exported"], kl["merged"]) < 1e-8
    assert 1e-6 < kl["quantized"] < 0.5
    prompt = torch.randint(TINY.vocabulary, (8,), generator=torch.Generator().manual_seed(0))
    added = {name: generate(FOREIGN["onnx"].open_runtime(path, 1), prompt, 12, ()) for name, path in paths.items()}
    assert added["merged"] == added["exported"]
