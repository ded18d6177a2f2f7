"""The machine that numbers were measured on."""

from __future__ import annotations

import psutil

from pythia_quant import environment
from pythia_quant.results import Machine


def machine(device: str = "cpu") -> Machine:
    """Describe this machine; `device` is ``cuda`` where an accelerator was used, which is then described too."""
    name, sets = environment.processor()
    return Machine(
        cpu=name,
        instruction_sets=sets,
        cores=environment.cores(),
        memory_bytes=psutil.virtual_memory().total,
        system=environment.system(),
        accelerator=environment.accelerator() if device == "cuda" else None,
        versions=environment.library_versions(),
    )
