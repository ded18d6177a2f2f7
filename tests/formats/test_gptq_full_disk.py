"""A disk that fills while GPTQ works: one error, wherever it happens."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gptq_models import convert, source

from pythia_quant.core.errors import StorageError
from pythia_quant.core.files import scratch_folder

STATES = 32 * 64 * 128 * 2
"""Bytes of the calibration windows' hidden states, in one model."""


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk of so many bytes."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # the error's frames still map files there


@pytest.mark.parametrize(
    "size",
    [STATES * 3 // 2, STATES * 5 // 2, STATES * 7 // 2, STATES * 4 + 60_000],
    ids=["at the beginning", "the original's states", "the quantized model's states", "a solved layer"],
)
def test_a_disk_that_fills_is_one_error_and_nothing_is_left(tmp_path: Path, size: int) -> None:
    """A store to a mapped page would end this process."""
    weights = source(tmp_path / "source")
    with disk(tmp_path / "disk", size) as folder:
        target = folder / "artifact"
        with pytest.raises(StorageError, match=f"^{target}: cannot be written: the disk is full"):  # noqa: SIM117
            with scratch_folder(target) as scratch:
                convert(weights, scratch, sweeps=0)
        assert list(folder.iterdir()) == []
