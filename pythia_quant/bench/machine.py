"""The machine that numbers were measured on."""

from __future__ import annotations

from pythia_quant.core import machine
from pythia_quant.records.results import Machine


def machine_record(device: str = "cpu") -> Machine:
    """Describe this machine; `device` is ``cuda`` where an accelerator was used, which is then described too."""
    name, sets = machine.processor()
    return Machine(
        cpu=name,
        instruction_sets=sets,
        cores=machine.cores(),
        memory_bytes=machine.memory_total(),
        system=machine.system(),
        accelerator=machine.accelerator() if device == "cuda" else None,
        versions=machine.library_versions(),
    )
