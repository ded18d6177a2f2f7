"""A Python for ARM that qemu-aarch64 runs, with the versions of numpy and onnxruntime of this environment.

Its packages are from Debian 12. apt downloads them with lists of its own, and they are unpacked into a folder: nothing
is installed, and this machine's list of architectures does not change.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

_SUITE, _PYTHON = "bookworm", "3.11"
_PACKAGES = (f"python{_PYTHON}-minimal", f"libpython{_PYTHON}-stdlib", "libstdc++6", "libgomp1", "zlib1g", "libexpat1")
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")

# onnxruntime reads /proc/cpuinfo. qemu's user mode shows the host's, with which onnxruntime crashes.
_ALWAYS = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
_NEOVERSE_N1 = f"{_ALWAYS} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_CPUS = {  # part number and features
    "cortex-a72": ("0xd08", _ALWAYS),
    "neoverse-n1": ("0xd0c", _NEOVERSE_N1),
    "max": ("0xd4f", f"{_NEOVERSE_N1} jscvt fcma ilrcpc asimdfhm flagm sve sve2 i8mm bf16 svei8mm svebf16"),
}


def python(model: str, folder: Path) -> list[str]:
    """Return the words that start a Python on an emulated CPU.

    Args:
        model: qemu's name for it.
        folder: where everything is kept, made when it is not there.

    Raises:
        subprocess.CalledProcessError: apt-get or pip failed.
    """
    root = folder / "root"
    if not root.exists():
        partial = folder / "root.part"
        _unpack(folder, partial)
        partial.rename(root)
    part, features = _CPUS[model]
    fields = {
        "BogoMIPS": "100.00",
        "Features": features,
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": "0x1",
        "CPU part": part,
        "CPU revision": "1",
    }
    (root / "proc").mkdir(exist_ok=True)
    lines = ["processor\t: 0", *(f"{key}\t: {value}" for key, value in fields.items()), ""]
    (root / "proc/cpuinfo").write_text("\n".join(lines) + "\n")
    cpus = root / "sys/devices/system/cpu"
    cpus.mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present", "online"):
        (cpus / name).write_text("0\n")
    qemu = ["qemu-aarch64", "-cpu", model, "-L", str(root), "-E", f"PYTHONPATH={root / 'site'}"]
    return [*qemu, str(root / f"usr/bin/python{_PYTHON}")]


def _unpack(folder: Path, root: Path) -> None:
    state, cache, wheels = folder / "state", folder / "cache", folder / "wheels"
    for place in (state / "lists/partial", cache / "archives/partial", wheels, root):
        place.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    sources = folder / "sources.list"
    sources.write_text(f"deb [arch=arm64 signed-by={_KEYS}] http://deb.debian.org/debian {_SUITE} main\n")
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": cache,
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
    subprocess.run([*apt, "update"], check=True)
    options = ["--yes", "--download-only", "--no-install-recommends"]
    subprocess.run([*apt, "install", *options, *_PACKAGES], check=True, stdout=subprocess.DEVNULL)
    for package in sorted((cache / "archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    pinned = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy")]
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", _PYTHON]
    subprocess.run([*pip, *platforms, "--dest", wheels, *pinned], check=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root / "site")
