"""The examples are run: the script, the cells of the notebook, and the code of docs/python.md."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import program
import pytest
from shared import linked

import pythia_quant as pq

ROOT = Path(__file__).parent.parent
NOTEBOOK = json.loads((ROOT / "examples" / "two_variants.ipynb").read_text())


@pytest.fixture
def folder(whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which the tiny model was run, so that its artifacts are there."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    finished = linked(whole_run, tmp_path / "examples")
    (finished / "out").rename(finished / "artifacts")
    return finished


def test_the_script_compares_two_variants(folder: Path) -> None:
    with contextlib.chdir(folder):
        script = (ROOT / "examples" / "two_variants.py").read_text()
        printed = program.run_script(script, "tiny.yaml", "--windows", "3").stdout
    results = pq.Results.load(folder / "artifacts/tiny/local")
    assert results.protocol.windows == 3
    assert f"onnx-int8: KL {results['onnx-int8']['kl'].value:.2f} mnat, 95 % from" in printed
    assert re.search(r"gptq-int4 +top1 +\d", printed)
    assert "me/tiny-onnx-int8 would have: " in printed
    assert (folder / "artifacts" / "drift-by-layer.png").stat().st_size > 5000


def test_the_notebook_runs_from_its_first_cell_to_its_last(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    parameters, *cells = ("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
    names: dict[str, Any] = {}
    exec(parameters, names)
    assert (names["RECIPE"], names["WINDOWS"]) == ("demo", 20)
    texts = {"text": "evaluation.txt", "calibration": "calibration.txt"}
    names |= {"MODEL": "tiny", "RECIPE": "tiny.yaml", "TEXTS": texts, "WINDOWS": 3}
    with contextlib.chdir(folder):
        for cell in cells:
            exec(cell, names)
    assert names["artifact"].manifest == pq.load(folder / "artifacts/tiny/local/onnx-int8").manifest
    assert set(names["frame"]["row"]) == set(names["results"].names)
    assert len(names["axes"].lines) == 2
    assert "me/tiny-onnx-int8\nconfig.json" in capsys.readouterr().out
    assert all(not cell.get("outputs") for cell in NOTEBOOK["cells"]), "the notebook is kept without its outputs"


def test_the_guide_is_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The names of the demo stand for those of the tiny model here."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    texts = ', text="evaluation.txt", calibration="calibration.txt"'
    replaced = {
        "artifacts/demo/builtin": "artifacts/tiny/local",
        'quantize("demo", method="gptq-int4"': f'quantize("tiny", method="onnx-int8"{texts}',
        '"demo", out="artifacts", only=': '"tiny.yaml", out="artifacts", only=',
        'load_recipe("demo")': 'load_recipe("tiny.yaml")',
    }
    names: dict[str, Any] = {}
    assert len(blocks) >= 6
    with contextlib.chdir(folder):
        for block in blocks:
            for word, tiny in replaced.items():
                block = block.replace(word, tiny)  # noqa: PLW2901
            assert '"demo' not in block
            exec(block, names)
    assert "KL" in capsys.readouterr().out
