"""How much memory and how many processors this process may use: the machine's, less what its control groups withhold.

Docker, Kubernetes and SLURM limit a process by control groups. Those that hold it are named in ``/proc/self/cgroup``,
and where their files are in ``/proc/self/mountinfo``: https://docs.kernel.org/admin-guide/cgroup-v2.html and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html. A limit of a group holds for all groups within it.
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
    """Return how many threads this process can keep busy: its processors, or the time that it is granted on them.

    A share of 2.5 processors keeps 2 threads busy: a third would have all three stopped in every period.

    Args:
        root: where to find ``proc`` and what is mounted.
    """
    count = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 1
    shares = [share for group in _groups("cpu", root) if (share := _share(group)) is not None]
    return max(1, int(min([count, *shares])))


def memory_total(root: Path = _ROOT) -> int:
    """Return the bytes of memory that this process may use when nothing else is in use."""
    limits = [limit for group in _groups("memory", root) if (limit := _limit(group)) is not None]
    return min([psutil.virtual_memory().total, *limits])


def memory_available(root: Path = _ROOT) -> int:
    """Return the bytes of memory that this process may use now. Files in the page cache are not in its way."""
    left = [limit - _used(group) for group in _groups("memory", root) if (limit := _limit(group)) is not None]
    return max(0, min([psutil.virtual_memory().available, *left]))


def thread_limits(threads: int, given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that keep numeric libraries to so many threads, but those already `given`."""
    return {name: str(threads) for name in _THREAD_VARIABLES if name not in given}


def bound_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep numeric libraries that are imported later to the processors that this process may use.

    By themselves they count those of the machine: 64 threads in a container with the time of two.
    """
    environment.update(thread_limits(cores(), environment))


def bound_torch(environment: Mapping[str, str] = os.environ) -> None:
    """Keep torch, where a program that is not ours has imported it already, to the processors of this process, too."""
    import torch  # noqa: PLC0415 - most of what asks for resources does without it

    if "OMP_NUM_THREADS" not in environment and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Give the folders of this process's control groups that may limit something: its own, and those around it."""
    lines = [line.split(":", 2) for line in _lines(root / "proc/self/cgroup")]
    paths = {name: path for _, names, path in (line for line in lines if len(line) == 3) for name in names.split(",")}
    for mount in _lines(root / "proc/self/mountinfo"):
        # 31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
        before, _, after = mount.partition(" - ")
        places, described = before.split(" "), after.split(" ")  # one at a time: what is mounted may have no name
        if len(places) < 5 or len(described) < 3:
            continue
        (within, place), (kind, _, options) = places[3:5], described[:3]
        if kind == "cgroup2":
            path = paths.get("")
        elif kind == "cgroup" and controller in options.split(","):
            path = paths.get(controller)
        else:
            continue
        top = root / place.lstrip("/")
        yield top
        # Only a part of the tree may be mounted, as in a container: groups in it are named from the whole tree's top.
        own = PurePosixPath(path or "/")
        below = own.relative_to(within).parts if own.is_relative_to(within) and ".." not in own.parts else ()
        for depth in range(1, len(below) + 1):
            yield top.joinpath(*below[:depth])


def _lines(file: Path) -> list[str]:
    """Return a file's lines; none where it cannot be read. Names of folders in it may be in any encoding."""
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
    """Return the processors' time that a group is granted, in processors."""
    quota, period = [*_read(group / "cpu.max"), "", ""][:2]  # version 2: "200000 100000", or "max 100000"
    if not quota:
        quota, period = (str(_number(group / f"cpu.cfs_{name}_us") or "") for name in ("quota", "period"))
    granted, of = _whole(quota), _whole(period)
    return granted / of if granted and of and granted > 0 and of > 0 else None


def _limit(group: Path) -> int | None:
    limit = _number(group / "memory.max")  # version 2: a number, or "max"
    return _number(group / "memory.limit_in_bytes") if limit is None else limit


def _used(group: Path) -> int:
    """Return the bytes that a group uses without the page cache's, which make room as soon as they must."""
    used = _number(group / "memory.current")
    name = "inactive_file"
    if used is None:
        used, name = _number(group / "memory.usage_in_bytes") or 0, "total_inactive_file"
    statistics = _read(group / "memory.stat")
    cached = dict(zip(statistics[::2], statistics[1::2], strict=False)).get(name, "")
    return max(0, used - (_whole(cached) or 0))
