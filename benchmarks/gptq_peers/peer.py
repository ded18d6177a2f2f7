"""The other programs: the environment of each, and one run of it in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import watch
from peers.environments import TORCH, Environment
from peers.store import Record

from gptq_peers.methods import Method
from gptq_peers.unpack import LinearArrays, linear_weights, plain_weights


@dataclass(frozen=True)
class Program:
    """A program that quantizes.

    Attributes:
        environment: what it needs.
        driver: runs it, in its own interpreter.
        reader: returns the weights of a linear layer from what the driver wrote.
    """

    environment: Environment
    driver: Path
    reader: Callable[[Path], LinearArrays]


# Its build imports torch and numpy. It must see those that are installed; otherwise pip would download others.
_GPTQMODEL = Environment(
    (
        (TORCH, "numpy==2.2.6", "setuptools", "wheel"),
        ("--no-build-isolation", "gptqmodel==7.6.0", "optimum==2.3.0", "transformers==5.23.0"),
    )
)
_HERE = Path(__file__).parent

PROGRAMS = {
    "gptqmodel": Program(_GPTQMODEL, _HERE / "peer_gptqmodel.py", linear_weights),
    "auto-round": Program(Environment(((TORCH,), ("auto-round==0.16.1",))), _HERE / "peer_autoround.py", plain_weights),
    "onecomp": Program(Environment(((TORCH,), ("onecomp==1.4.0",))), _HERE / "peer_onecomp.py", plain_weights),
}
"""By name. onecomp needs Python 3.12."""


def run(
    method: Method, python: Path, source: Path, ids: list[list[int]], work: Path, threads: int
) -> tuple[Record, Path]:
    """Quantize a checkpoint in a fresh process.

    Args:
        method: which of its options.
        python: its interpreter.
        source: the checkpoint's folder.
        ids: calibration windows.
        work: an empty folder.
        threads: for all of its libraries.

    Returns:
        The driver's answer, with the ``seconds`` of the whole process; and the folder of the quantized model.

    Raises:
        FailedError: it could not.
    """
    listed, out = work / "ids.json", work / "model"
    listed.write_text(json.dumps(ids))
    limits = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "GPTQMODEL_CPU_WORKERS": str(max(2, threads)),  # it refuses fewer than the two that load a model
        "HF_HUB_OFFLINE": "1",
    }
    driver = PROGRAMS[method.program].driver
    command: list[str | Path] = [python, driver, source, listed, out, json.dumps(method.settings())]
    watched = watch.run(command, work.parent / f"{method.program}.log", limits, look=False)
    record: dict[str, Any] = json.loads(watched.output)
    return record | {"seconds": watched.seconds}, out
