"""The files of others that a site needs: pinned, fetched by the user's npm or found in a folder, and always compared.

``vendor.json`` beside this module records versions and SHA-512.
"""

from __future__ import annotations

import base64
import builtins
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from pythia_quant.core.errors import ArgumentError
from pythia_quant.core.files import Cache
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.text import printable

_CACHE = Cache("web", 200_000_000)
_PATIENCE_SECONDS = 300
_MOST_BYTES = 100_000_000


@dataclass(frozen=True)
class Package:
    """A package of npm.

    Attributes:
        name: its name.
        version: the one version that is used.
        license: its licence, by its SPDX name.
        integrity: ``sha512-`` and the SHA-512 of its tarball in base64, as npm writes it.
    """

    name: str
    version: str
    license: str
    integrity: str

    @property
    def tarball(self) -> str:
        """The name of the file that ``npm pack`` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class VendorFile:
    """A file of a package.

    Attributes:
        name: its name in a site's ``vendor/``. Modules end in ``.js`` there: some servers do not know ``.mjs``.
        package: the name of its package.
        path: its path in the package.
        bytes: its size.
        sha512: the hex SHA-512 of its content.
    """

    name: str
    package: str
    path: str
    bytes: int
    sha512: str

    def is_content(self, content: builtins.bytes) -> bool:
        """Say whether this is the file's content."""
        return hashlib.sha512(content).hexdigest() == self.sha512


@cache
def pins() -> tuple[dict[str, Package], dict[str, VendorFile]]:
    """Return the packages and the files that are needed of them, by name."""
    data = json.loads(files(__package__).joinpath("vendor.json").read_text(encoding="utf-8"))
    packages = {name: Package(name, **fields) for name, fields in data["packages"].items()}
    return packages, {name: VendorFile(name, **fields) for name, fields in data["files"].items()}


def vendor_contents(assets: Path | None = None, progress: Progress = SILENT) -> Iterator[tuple[VendorFile, bytes]]:
    """Yield the files of others with their contents, each compared with its SHA-512.

    They come from `assets` if it is given, else from the cache, else from the user's npm, which fills the cache.

    Args:
        assets: a folder with the packages: ``node_modules`` or the folder above it, the tarballs of ``npm pack``, or
            the ``vendor`` folder of another site.
        progress: receives what is fetched.

    Raises:
        ArgumentError: a file is in neither place, npm is missing or cannot fetch it, or its content is another.
    """
    packages, wanted = pins()
    for file in wanted.values():
        if assets is not None:
            yield file, _of_folder(assets, file, packages[file.package])
            continue
        content = _CACHE.read(file.sha512[:64])
        if content is None or not file.is_content(content):
            _fetch(packages[file.package], progress)
            content = _CACHE.read(file.sha512[:64])
        if content is None:  # the cache cannot be written
            package = packages[file.package]
            content = _members(package, _pack(package, progress), package.name)[file.name]
        yield file, content


def _of_folder(folder: Path, file: VendorFile, package: Package) -> bytes:
    """Return a file's content from a folder of the user."""
    if not folder.is_dir():
        raise ArgumentError("there is no such folder", where=f"--assets {folder}", hint="give one with the packages")
    places = (folder / file.name, folder / package.name / file.path, folder / "node_modules" / package.name / file.path)
    for path in places:
        if path.is_file():
            content = path.read_bytes() if path.stat().st_size == file.bytes else b""
            if not file.is_content(content):
                what = f"is not the file of {package.name} {package.version}: its SHA-512 differs from the recorded one"
                raise ArgumentError(what, where=str(path), hint=f"npm pack {package.name}@{package.version} fetches it")
            return content
    tarball = folder / package.tarball
    if not tarball.is_file():
        hint = f"there is no {package.tarball} either; `npm pack {package.name}@{package.version}` makes it"
        raise ArgumentError(f"holds no {package.name}/{file.path}", where=f"--assets {folder}", hint=hint)
    return _members(package, tarball.read_bytes(), str(tarball))[file.name]


def _fetch(package: Package, progress: Progress) -> None:
    """Put the files of a package into the cache."""
    wanted = pins()[1]
    for name, content in _members(package, _pack(package, progress), package.name).items():
        _CACHE.write(wanted[name].sha512[:64], content)


def _pack(package: Package, progress: Progress) -> bytes:
    """Return the tarball of a package, as the user's npm fetches it."""
    npm = shutil.which("npm")
    named = f"{package.name} {package.version}"
    hint = "--assets DIR takes it from a folder with node_modules, or with the tarballs of `npm pack`"
    if npm is None:
        raise ArgumentError(f"needs {named}, and npm, which fetches it, is not installed", where="web", hint=hint)
    progress.step(f"npm fetches {named}", 0, 1)
    with tempfile.TemporaryDirectory(prefix="pythia-quant-npm-") as folder:
        command = [
            npm,
            "pack",
            f"{package.name}@{package.version}",
            "--ignore-scripts",
            "--silent",
            "--no-update-notifier",
        ]
        command += ["--pack-destination", folder, "--fetch-retries=1", "--fetch-timeout=60000"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                timeout=_PATIENCE_SECONDS, check=False,
            )  # fmt: skip
        except (subprocess.TimeoutExpired, OSError) as error:
            raise ArgumentError(f"npm cannot fetch {named} ({type(error).__name__})", where="web", hint=hint) from None
        path = Path(folder) / package.tarball
        if done.returncode or not path.is_file():
            said = " ".join(printable(done.stderr or done.stdout).split())[:200]
            raise ArgumentError(f"npm cannot fetch {named}{f': {said}' if said else ''}", where="web", hint=hint)
        return path.read_bytes()


def _members(package: Package, content: bytes, where: str) -> dict[str, bytes]:
    """Return the needed files of a package's tarball by their names in a site; nothing else of it is unpacked."""
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if f"sha512-{digest}" != package.integrity:
        hint = "it was altered, or cut off: remove it, and fetch it again"
        raise ArgumentError("its SHA-512 is not the recorded one", where=where, hint=hint)
    wanted = {f"package/{file.path}": file for file in pins()[1].values() if file.package == package.name}
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            file = wanted.get(member.name)
            stream = archive.extractfile(member) if file and member.isreg() and member.size < _MOST_BYTES else None
            if file and stream:
                found[file.name] = stream.read()
    for file in wanted.values():
        if not file.is_content(found.get(file.name, b"")):
            raise ArgumentError(f"{file.path} is missing, or another", where=where, hint="this is a defect: report it")
    return found
