"""The CPUs to run on, and how to run a Python on each.

There are three ways: this CPU as it is; this CPU with CPUID intercepted, so that libraries do not see some instruction
sets (at native speed, and the only way to have AVX-512 without VNNI, because no version of qemu emulates AVX-512); and
a CPU that qemu's user mode emulates.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aarch64

HERE = Path(__file__).parent

# Bits of CPUID: leaf.subleaf.register.bit, by the names that /proc/cpuinfo gives them.
_BITS = {
    "avx512f": "7.0.ebx.16",
    "avx512dq": "7.0.ebx.17",
    "avx512ifma": "7.0.ebx.21",
    "avx512cd": "7.0.ebx.28",
    "avx512bw": "7.0.ebx.30",
    "avx512vl": "7.0.ebx.31",
    "avx512vbmi": "7.0.ecx.1",
    "avx512_vbmi2": "7.0.ecx.6",
    "avx512_vnni": "7.0.ecx.11",
    "avx512_bitalg": "7.0.ecx.12",
    "avx512_vpopcntdq": "7.0.ecx.14",
    "amx_bf16": "7.0.edx.22",
    "avx512_fp16": "7.0.edx.23",
    "amx_tile": "7.0.edx.24",
    "amx_int8": "7.0.edx.25",
    "avx_vnni": "7.1.eax.4",
    "avx512_bf16": "7.1.eax.5",
}
_AMX = ("amx_bf16", "amx_tile", "amx_int8")
_AVX512 = tuple(name for name in _BITS if name.startswith("avx512"))


@dataclass(frozen=True)
class Cpu:
    """A kind of CPU.

    Attributes:
        name: what the table calls it.
        way: how a Python gets there.
        model: qemu's name for it.
        needs: instruction sets that this CPU must have, by their names in /proc/cpuinfo.
        hides: instruction sets that libraries shall not see.
    """

    name: str
    way: Literal["as it is", "intercepted", "qemu-x86_64", "qemu-aarch64"]
    model: str = ""
    needs: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()

    def missing(self) -> str:
        """Return why this machine cannot provide the CPU; an empty string if it can."""
        if self.way == "as it is":
            return ""
        if self.way == "intercepted":
            lacking = [name for name in (*self.needs, "cpuid_fault") if name not in _flags()]
            if lacking:
                return f"this CPU has no {' '.join(lacking)}"
        programs = {"intercepted": ["gcc"], "qemu-aarch64": ["apt-get", "dpkg"]}.get(self.way, [])
        if self.way.startswith("qemu"):
            programs.append(self.way)
        absent = [program for program in programs if not shutil.which(program)]
        packages = " ".join("qemu-user" if program.startswith("qemu") else program for program in absent)
        return f"not installed: {packages}" if absent else ""


CPUS = (
    Cpu("this machine", "as it is"),
    Cpu(
        "AVX-512 with VNNI (Ice Lake, Zen 4)",
        "intercepted",
        needs=("avx512_vnni",),
        hides=(*_AMX, "avx_vnni", "avx512_fp16", "avx512_bf16"),
    ),
    Cpu(
        "AVX-512 without VNNI (Skylake-SP)",
        "intercepted",
        needs=("avx512f",),
        hides=(*_AMX, "avx_vnni", "avx512_fp16", "avx512_bf16", "avx512_vnni"),
    ),
    Cpu("AVX2 with AVX-VNNI (Alder Lake)", "intercepted", needs=("avx_vnni",), hides=(*_AMX, *_AVX512)),
    Cpu("AVX2 (Haswell, Zen to Zen 3)", "intercepted", needs=("avx2",), hides=(*_AMX, *_AVX512, "avx_vnni")),
    Cpu("AVX2, qemu Haswell", "qemu-x86_64", "Haswell"),
    Cpu("AVX, qemu SandyBridge", "qemu-x86_64", "SandyBridge"),
    Cpu("SSE4.2, qemu Nehalem", "qemu-x86_64", "Nehalem"),
    Cpu("ARM, qemu cortex-a72", "qemu-aarch64", "cortex-a72"),
    Cpu("ARM dotprod, qemu neoverse-n1", "qemu-aarch64", "neoverse-n1"),
    Cpu("ARM i8mm, qemu max", "qemu-aarch64", "max"),
)


def run(cpu: Cpu, script: Path, argument: Path, work: Path) -> None:
    """Run a Python script under a CPU.

    Args:
        cpu: which.
        script: needs numpy and onnxruntime only.
        argument: of the script.
        work: a folder for what that takes.

    Raises:
        subprocess.CalledProcessError: it did not end with 0; its last words are the exception's `stderr`.
    """
    words: Sequence[str | Path] = [sys.executable, script, argument]
    variables: Mapping[str, str] = {}
    if cpu.way == "intercepted":
        variables = {
            "LD_PRELOAD": str(_interceptor(work)),
            "HIDE_CPUID": " ".join(_BITS[name] for name in cpu.hides),
        }
    elif cpu.way == "qemu-x86_64":
        words = [cpu.way, "-cpu", cpu.model, *words]
    elif cpu.way == "qemu-aarch64":
        words = [*aarch64.python(cpu.model, work / "aarch64"), script, argument]
    subprocess.run(words, env=os.environ | dict(variables), stderr=subprocess.PIPE, text=True, check=True)


def _interceptor(work: Path) -> Path:
    library = work / "cpuid.so"
    subprocess.run(["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", library, HERE / "cpuid.c"], check=True)
    return library


def _flags() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split() for line in lines if line.startswith("flags")), [])
