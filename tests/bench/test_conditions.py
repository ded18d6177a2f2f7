"""What numbers were measured on, and where a row may run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from gptq_models import CALIBRATION, convert, source

from pythia_quant.bench.conditions import machine_record
from pythia_quant.bench.subject import Subject
from pythia_quant.core import machine
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.formats.gptq.runtime import open_runtime


def test_the_machine_is_described_and_a_gpu_only_when_it_was_used() -> None:
    found = machine_record()
    assert found.cpu
    assert 1 <= found.cores <= (psutil.cpu_count() or 1)
    assert found.memory_bytes == psutil.virtual_memory().total
    assert found.versions["torch"].startswith(torch.__version__.partition("+")[0])
    assert found.accelerator is None
    assert (machine_record("cuda").accelerator is not None) == torch.cuda.is_available()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86  Release Build  (root@x)\n", "570.86"),
        ("something else", ""),
    ],
)
def test_the_driver_s_version_is_read_off_what_its_module_says(text: str, version: str) -> None:
    assert machine.driver_version(text) == version


def test_onnx_stays_on_the_cpu_and_all_else_goes_where_it_is_told() -> None:
    here = Path()
    assert Subject(name="", folder=here, settings={"format": "onnx"}, device="cuda").device == "cpu"
    assert Subject(name="", folder=here, settings={"format": "bnb"}, device="cuda").device == "cuda"
    assert Subject(name="", folder=here, dtype="float16", device="cuda").device == "cuda"
    assert Subject(name="", folder=here, dtype="float16").device == "cpu"


@pytest.mark.skipif(find_spec("gptqmodel") is not None, reason="gptqmodel is installed, and runs it")
def test_gptq_is_not_run_dequantized_on_a_gpu(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"calibration": CALIBRATION[:12], "sweeps": 0, "correction": "none"}
    convert(source(tmp_path / "source"), tmp_path / "artifact", **quick)
    with pytest.raises(BenchmarkError, match="only gptqmodel runs GPTQ artifacts"):
        open_runtime(tmp_path / "artifact", 1, device="cuda")
