"""One virtual environment a peer, with pinned versions: no two of them agree on transformers, optimum or torch.

Each is made once in a work folder. A stamp file holds what it was made from, so that nothing is done where it still
is the same.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
TRANSFORMERS = "transformers==4.57.6"
LLAMA_CPP = "llama-cpp-python==0.3.36"

_STAMP = ".made-from.json"
_VERSIONS = "import importlib.metadata as m,json;print(json.dumps({d.name:d.version for d in m.distributions()}))"

# What llama.cpp's build can use, by the flag in /proc/cpuinfo that says the processor has it. AMX is left out: built
# with gcc 12, llama.cpp crashes in it.
_CMAKE_FLAGS = {
    "sse4_2": "GGML_SSE42",
    "avx": "GGML_AVX",
    "avx2": "GGML_AVX2",
    "fma": "GGML_FMA",
    "f16c": "GGML_F16C",
    "bmi2": "GGML_BMI2",
    "avx512f": "GGML_AVX512",
    "avx512vbmi": "GGML_AVX512_VBMI",
    "avx512_vnni": "GGML_AVX512_VNNI",
    "avx512_bf16": "GGML_AVX512_BF16",
    "avx_vnni": "GGML_AVX_VNNI",
}


class UnavailableError(Exception):
    """A peer cannot be installed or run here; the message says why."""


def cpu_flags() -> set[str]:
    """Return the instruction sets that Linux lists for the first processor; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def llama_cpp_options() -> str:
    """Return the build options of llama.cpp for this processor."""
    flags = cpu_flags()
    chosen = [f"-D{option}=ON" for flag, option in _CMAKE_FLAGS.items() if flag in flags]
    # Without flags to choose from, an ARM machine say, the compiler is asked what this processor can do.
    return " ".join(["-DGGML_NATIVE=OFF", *chosen] if chosen else ["-DGGML_NATIVE=ON"])


@dataclass(frozen=True)
class Environment:
    """What a peer needs.

    Attributes:
        installs: requirements, in steps: with the pinned torch there, no later step asks for another build of it.
        source: a requirement to build from its source, which is left in ``source`` inside the environment.
        options: gives ``CMAKE_ARGS`` of that build.
    """

    installs: tuple[tuple[str, ...], ...]
    source: str | None = None
    options: Callable[[], str] = str

    def identity(self) -> str:
        """Return what the environment is made from, as text."""
        parts = [self.installs, self.source, self.options(), sys.version]
        return json.dumps(parts)


ENVIRONMENTS = {
    "usual": Environment(((TORCH,), ("optimum-onnx==0.1.0", "onnxruntime==1.31.1", "onnx==1.23.2", TRANSFORMERS))),
    "llama.cpp": Environment(
        ((TORCH,), (TRANSFORMERS, "sentencepiece", "safetensors", "pyyaml")), LLAMA_CPP, llama_cpp_options
    ),
    # Later releases need torchvision, which brings a torch of its own, with CUDA.
    "openvino": Environment(((TORCH,), ("openvino==2026.4.1", "optimum-intel[openvino]==1.27.0", TRANSFORMERS))),
    "ctranslate2": Environment(((TORCH,), ("ctranslate2==4.8.5", TRANSFORMERS))),
}


def make(name: str, work: Path, say: Callable[[str], object] = print) -> Path:
    """Make an environment unless it is there, and return its interpreter.

    Args:
        name: one of :data:`ENVIRONMENTS`.
        work: the folder for all of them.
        say: told what is being done, for it takes minutes.

    Raises:
        UnavailableError: with the last line that pip or the build printed.
    """
    environment = ENVIRONMENTS[name]
    folder = work / "environments" / name
    stamp = folder / _STAMP
    python = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == environment.identity():
        return python
    say(f"installing {name} (once, in {folder})")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = work / "environments" / f"{name}.log"
    _run([sys.executable, "-m", "venv", str(folder)], log)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for requirements in environment.installs:
        _run([*pip, *requirements], log)
    if environment.source:
        say(f"building {environment.source} with {environment.options()}")
        source = _unpack(environment.source, python, folder, log)
        _run([*pip, str(source)], log, {"CMAKE_ARGS": environment.options()})
    stamp.write_text(environment.identity())
    return python


def _unpack(requirement: str, python: Path, folder: Path, log: Path) -> Path:
    """Download a source distribution and unpack it as ``source`` inside the environment."""
    place = folder / "download"
    fetch = ["download", "--quiet", "--no-deps", "--no-binary", requirement.partition("==")[0]]
    _run([str(python), "-m", "pip", *fetch, "--dest", str(place), requirement], log)
    with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
        archive.extractall(place, filter="data")
    source = folder / "source"
    next(path for path in place.iterdir() if path.is_dir()).rename(source)
    shutil.rmtree(place)
    return source


def _run(command: list[str], log: Path, extra: dict[str, str] | None = None) -> None:
    with log.open("ab") as file:
        child = subprocess.run(command, stdout=file, stderr=file, env=os.environ | (extra or {}), check=False)
    if child.returncode:
        raise UnavailableError(f"{' '.join(command[:4])} failed; the end of {log} says why")


def versions(python: Path) -> dict[str, str]:
    """Return the versions of all that an interpreter has installed."""
    child = subprocess.run([python, "-c", _VERSIONS], capture_output=True, check=True)
    found: dict[str, str] = json.loads(child.stdout)
    return found
