"""The memory and processors that this process may use: those of the machine, within the limits of its control groups.

Docker, Kubernetes and SLURM limit a process by control groups. ``/proc/self/cgroup`` names the groups of a process,
``/proc/self/mountinfo`` the folders of their files: https://docs.kernel.org/admin-guide/cgroup-v2.html and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html. A group's limit holds for all groups within it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path, PurePosixPath

import psutil

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
