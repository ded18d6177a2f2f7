"""The machine: its processors and memory as far as this process may use them, and the versions a number belongs to."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping, MutableMapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

import psutil

_LIBRARIES = (
    "torch", "transformers", "tokenizers", "safetensors", "bitsandbytes", "onnx", "onnxruntime", "gptqmodel", "optimum",
    "gguf", "xllamacpp",
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


_ROOT = Path("/")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores(root: Path = _ROOT) -> int:
    """Return how many threads this process can keep busy, by its processors and by its share of their time.

    A share of 2.5 processors keeps 2 threads busy: with 3, the kernel would stop all of them in every period.

    Args:
        root: the folder that holds ``proc`` and the mounted control groups.
    """
    count = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 1
    shares = [share for group in _groups("cpu", root) if (share := _share(group)) is not None]
    return max(1, int(min([count, *shares])))


def memory_total(root: Path = _ROOT) -> int:
    """Return the bytes of memory that this process may use when nothing else uses any."""
    limits = [limit for group in _groups("memory", root) if (limit := _limit(group)) is not None]
    return min([psutil.virtual_memory().total, *limits])


def memory_available(root: Path = _ROOT) -> int:
    """Return the bytes of memory that this process may use now. The page cache counts as free."""
    free = [limit - _used(group) for group in _groups("memory", root) if (limit := _limit(group)) is not None]
    return max(0, min([psutil.virtual_memory().available, *free]))


def thread_limits(threads: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that limit numeric libraries to `threads`, without those already set."""
    return {name: str(threads) for name in _THREAD_VARIABLES if name not in environment}


def bound_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Limit numeric libraries that are imported later to the processors that this process may use.

    Otherwise they count the machine's processors: 64 threads in a container with the time of two processors.
    """
    environment.update(thread_limits(cores(), environment))


def bound_torch(environment: Mapping[str, str] = os.environ) -> None:
    """Limit torch to the processors of this process when another program imported torch before us."""
    import torch  # noqa: PLC0415 - most callers of this module do without torch

    if "OMP_NUM_THREADS" not in environment and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of the control group of this process and of all groups around it."""
    lines = [line.split(":", 2) for line in _lines(root / "proc/self/cgroup")]
    paths = {name: path for _, names, path in (line for line in lines if len(line) == 3) for name in names.split(",")}
    for mount in _lines(root / "proc/self/mountinfo"):
        # 31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
        before, _, after = mount.partition(" - ")
        places, filesystem = before.split(" "), after.split(" ")  # not split(): the mounted device may have no name
        if len(places) < 5 or len(filesystem) < 3:
            continue
        (mount_root, mount_point), (kind, _, options) = places[3:5], filesystem[:3]
        if kind == "cgroup2":
            path = paths.get("")
        elif kind == "cgroup" and controller in options.split(","):
            path = paths.get(controller)
        else:
            continue
        top = root / mount_point.lstrip("/")
        yield top
        # A container may mount only a part of the tree, but a group's path begins at the root of the whole tree.
        own = PurePosixPath(path or "/")
        below = own.relative_to(mount_root).parts if own.is_relative_to(mount_root) and ".." not in own.parts else ()
        for depth in range(1, len(below) + 1):
            yield top.joinpath(*below[:depth])


def _lines(file: Path) -> list[str]:
    """Return a file's lines, or no lines when it cannot be read. It may name folders in any encoding."""
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return []


def _read(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _number(file: Path) -> int | None:
    return _whole(next(iter(_read(file)), ""))


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,30}", text) else None


def _share(group: Path) -> float | None:
    """Return how much processor time a group may use, in processors; None when it has no limit."""
    quota, period = [*_read(group / "cpu.max"), "", ""][:2]  # version 2: "200000 100000", or "max 100000"
    if not quota:
        quota, period = (str(_number(group / f"cpu.cfs_{name}_us") or "") for name in ("quota", "period"))
    numerator, denominator = _whole(quota), _whole(period)
    return numerator / denominator if numerator and denominator and numerator > 0 and denominator > 0 else None


def _limit(group: Path) -> int | None:
    limit = _number(group / "memory.max")  # version 2: a number, or "max"
    return _number(group / "memory.limit_in_bytes") if limit is None else limit


def _used(group: Path) -> int:
    """Return the bytes that a group uses, without the inactive page cache, which the kernel frees when needed."""
    used = _number(group / "memory.current")
    name = "inactive_file"
    if used is None:
        used, name = _number(group / "memory.usage_in_bytes") or 0, "total_inactive_file"
    statistics = _read(group / "memory.stat")
    cached = dict(zip(statistics[::2], statistics[1::2], strict=False)).get(name, "")
    return max(0, used - (_whole(cached) or 0))
