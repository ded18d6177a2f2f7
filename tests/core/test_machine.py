"""Limits of control groups, read from trees as the kernel shows them to a process."""

from pathlib import Path

import psutil
import pytest
import torch

from pythia_quant.core.machine import bound_threads, bound_torch, cores, memory_available, memory_total

GB = 10**9
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = (
    "32 31 0:29 {within} /sys/fs/cgroup/cpu,cpuacct rw master:11 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {within} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
)
NO_LIMIT = 9223372036854771712
"""What version 1 says where there is none."""


def tree(root: Path, groups: str, mounts: str, files: dict[str, object]) -> Path:
    contents = {"proc/self/cgroup": groups, "proc/self/mountinfo": f"27 1 254:0 / / rw - ext4 /dev/vda rw\n{mounts}"}
    contents |= {f"sys/fs/cgroup/{name}": str(content) for name, content in files.items()}
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(total=64 * GB, available=60 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _: list(range(64)))


def test_without_control_groups_the_machine_is_what_there_is(tmp_path: Path) -> None:
    assert (cores(tmp_path), memory_total(tmp_path), memory_available(tmp_path)) == (64, 64 * GB, 60 * GB)


def test_a_container_of_version_2(tmp_path: Path) -> None:
    """As docker run --cpus 2 --memory 8g shows it: the container's group is the top of what is mounted."""
    files = {
        "cpu.max": "200000 100000",
        "memory.max": 8 * GB,
        "memory.current": 7 * GB,
        "memory.stat": f"anon {GB}\nfile {6 * GB}\ninactive_file {5 * GB}\nactive_file {GB}",
    }
    root = tree(tmp_path, "0::/", V2, files)
    assert (cores(root), memory_total(root), memory_available(root)) == (2, 8 * GB, 6 * GB)


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    """As SLURM nests them: the step's own group has no limit, the job's has."""
    files = {
        "job/cpu.max": "400000 100000",
        "job/memory.max": 10 * GB,
        "job/memory.current": 2 * GB,
        "job/memory.stat": "inactive_file 0",
        "job/step/cpu.max": "max 100000",
        "job/step/memory.max": "max",
        "job/step/memory.current": GB,
        "other/cpu.max": "100000 100000",
        "other/memory.max": GB,
    }
    root = tree(tmp_path, "0::/job/step", V2, files)
    assert (cores(root), memory_total(root), memory_available(root)) == (4, 10 * GB, 8 * GB)


@pytest.mark.parametrize("within", ["/", "/docker/0123"])
def test_a_container_of_version_1(tmp_path: Path, within: str) -> None:
    """The whole tree may be mounted, or, without a namespace of control groups, the container's part of it."""
    inside = "docker/0123/" if within == "/" else ""
    files = {
        f"cpu,cpuacct/{inside}cpu.cfs_quota_us": 250000,
        f"cpu,cpuacct/{inside}cpu.cfs_period_us": 100000,
        f"memory/{inside}memory.limit_in_bytes": 4 * GB,
        f"memory/{inside}memory.usage_in_bytes": 3 * GB,
        f"memory/{inside}memory.stat": f"cache {2 * GB}\ninactive_file 1\ntotal_inactive_file {2 * GB}",
    }
    if inside:
        files |= {"cpu,cpuacct/cpu.cfs_quota_us": -1, "memory/memory.limit_in_bytes": NO_LIMIT}
    groups = "4:memory:/docker/0123\n2:cpu,cpuacct:/docker/0123\n1:name=systemd:/docker/0123\n0::/"
    root = tree(tmp_path, groups, V1.format(within=within), files)
    assert (cores(root), memory_total(root), memory_available(root)) == (2, 4 * GB, 3 * GB)


def test_a_share_of_a_processor_is_one_thread_and_memory_is_never_negative(tmp_path: Path) -> None:
    files = {"cpu.max": "50000 100000", "memory.max": GB, "memory.current": 2 * GB}
    root = tree(tmp_path, "0::/../elsewhere", V2, files)
    assert (cores(root), memory_available(root)) == (1, 0)


def test_a_process_bound_to_some_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _: [3, 5, 7])
    assert cores(tree(tmp_path, "0::/", V2, {"cpu.max": "800000 100000"})) == 3


def test_libraries_are_bound_unless_the_user_has_done_so() -> None:
    environment = {"OMP_NUM_THREADS": "7"}
    bound_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["MKL_NUM_THREADS"] == str(cores())


def test_torch_that_is_loaded_is_bound_unless_the_user_has_done_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _: [0, 1])
    before = torch.get_num_threads()
    try:
        for given, wanted in (({"OMP_NUM_THREADS": "7"}, 7), ({}, cores())):
            torch.set_num_threads(7)
            bound_torch(given)
            assert torch.get_num_threads() == wanted <= 7
        torch.set_num_threads(1)
        bound_torch({})
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_mounts_without_a_name_or_in_another_encoding_are_passed_over(tmp_path: Path) -> None:
    """``mount -t tmpfs "" /mnt`` leaves one without; folders may be named in any encoding."""
    mounts = f"40 23 0:30 / /mnt rw - tmpfs  rw\n41 23 0:31 / /mnt/caf\\351 rw - ext4 /dev/caf\udce9 rw\n\nodd\n{V2}"
    root = tree(tmp_path, "0::/", "", {"cpu.max": "200000 100000", "memory.max": 8 * GB, "memory.current": GB})
    (root / "proc/self/mountinfo").write_text(mounts, encoding="utf-8", errors="surrogateescape")
    (root / "proc/self/cgroup").write_text("odd\n\n0::/caf\udce9\n", encoding="utf-8", errors="surrogateescape")
    (root / "sys/fs/cgroup/memory.stat").write_text("inactive_file none\nodd\n")
    assert (cores(root), memory_total(root), memory_available(root)) == (2, 8 * GB, 7 * GB)


@pytest.mark.parametrize("quota", ["", "max", "0 0", "-1 100000", "200000", "² 100000", "100000 0", "x y"])
def test_what_is_no_share_is_no_limit(tmp_path: Path, quota: str) -> None:
    assert cores(tree(tmp_path, "0::/", V2, {"cpu.max": quota})) == 64
