"""The machine that numbers were measured on."""

from __future__ import annotations

from pythia_quant import environment, resources
from pythia_quant.results import Machine


def machine_record(device: str = "cpu") -> Machine:
    """Describe this machine; `device` is ``cuda`` where an accelerator was used, which is then described too."""
    name, sets = environment.processor()
    return Machine(
        cpu=name,
        instruction_sets=sets,
        cores=resources.cores(),
        memory_bytes=resources.memory_total(),
        system=environment.system(),
        accelerator=environment.accelerator() if device == "cuda" else None,
        versions=environment.library_versions(),
    )
