"""The machine and the library versions that a measured number belongs to."""

from __future__ import annotations

import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = (
    "torch", "transformers", "tokenizers", "safetensors", "bitsandbytes", "onnx", "onnxruntime", "gptqmodel", "optimum",
)  # fmt: skip
_INSTRUCTION_SETS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm", "bf16",
)  # fmt: skip


@cache
def tool_version() -> str:
    """Return this package's name and version."""
    return f"pythia-quant {version('pythia-quant')}"


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that compute something."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


@cache
def processor() -> tuple[str, list[str]]:
    """Return the processor's name and the instruction sets that decide speed and integer rounding."""
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return name, [flag for flag in _INSTRUCTION_SETS if flag in flags]


def cpu() -> str:
    """Return the processor's name with its instruction sets, on one line."""
    name, sets = processor()
    return f"{name} ({' '.join(sets)})" if sets else name


@cache
def accelerator() -> str | None:
    """Return the GPU's name with the versions of CUDA and the driver; None where torch sees no GPU."""
    import torch  # noqa: PLC0415 - heavy, and nothing else here needs it

    if not torch.cuda.is_available():
        return None
    driver_file = Path("/proc/driver/nvidia/version")
    driver = driver_version(driver_file.read_text()) if driver_file.exists() else ""
    return f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda}{driver and f', driver {driver}'})"


def driver_version(text: str) -> str:
    """Return the driver's version from the text of ``/proc/driver/nvidia/version``; empty when it names none."""
    match = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match[1] if match else ""


def system() -> str:
    """Return operating system, release and architecture."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"
