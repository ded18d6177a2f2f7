"""What can be refused of a command line before any work, and before torch is imported."""

from __future__ import annotations

import os
import re
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pythia_quant.core.console import progress_console
from pythia_quant.core.errors import ArgumentError, without_links
from pythia_quant.core.progress import Notices
from pythia_quant.formats.packages import NOT_EVERYWHERE, missing_of_variants, refuse_missing
from pythia_quant.formats.table import missing_packages
from pythia_quant.recipe.recipe import Recipe

_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/nvhost-gpu", "/dev/nvgpu", "/proc/driver/nvidia/version")
"""What a driver leaves on Linux: of Nvidia, in WSL, of AMD, and on Nvidia's small boards."""


def parse_out(text: str | Path) -> Path:
    """Return the folder that --out names.

    Raises:
        ArgumentError: it is empty, as when a variable of a script is not set.
    """
    if not str(text):
        raise ArgumentError("is empty", where="--out", hint="name a folder; the current one is called .")
    return Path(text)


def check_out(out: Path) -> None:
    """Refuse a folder for results that cannot be made or written; nothing is made.

    Raises:
        ArgumentError: a file is in its place or in that of a folder above it, or nothing can be written there.
    """
    target = without_links(out)
    existing = next(place for place in (target, *target.parents) if os.path.lexists(place))
    where, hint = f"--out {out}", "choose another folder"
    if not existing.is_dir():
        raise ArgumentError(f"{existing} is a file, not a folder", where=where, hint=hint)
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ArgumentError(f"nothing can be written in {existing}: {reason}", where=where, hint=hint) from error


def parse_memory(size: str) -> int:
    """Return a size of memory in bytes; ``4g`` and ``4GB`` are of 1000s, ``4GiB`` is of 1024s.

    Raises:
        ArgumentError: it is no size, or has no unit.
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?:([kmgt]?)(i?)b?)?", size.strip(), re.IGNORECASE)
    where = "--memory"
    if not match:
        raise ArgumentError(f"{size!r} is no size of memory", where=where, hint="give one such as 4GiB or 500MB")
    number, prefix, binary = match.groups()
    if size.strip() == number:
        raise ArgumentError(f"{size!r} has no unit", where=where, hint=f"say {number}GiB, or {number}MB")
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def check_device(device: Literal["cpu", "cuda"], where: str = "--device cuda") -> None:
    """Refuse a GPU where there is none, as far as that can be seen without torch; `where` is what asks for it.

    Raises:
        ArgumentError: there is no driver of a GPU here, or torch is a build for processors only.
    """
    if device == "cpu":
        return
    hint = f"measure on the CPU: {where.replace('cuda', 'cpu')}"
    try:
        build = version("torch")
    except PackageNotFoundError:
        build = ""
    if not any(os.path.exists(file) for file in _GPU_FILES):  # noqa: PTH110 - fixed names
        raise ArgumentError("there is no GPU here", where=where, hint=hint)
    if build.endswith("+cpu"):
        raise ArgumentError(f"torch {build} is a build for processors only", where=where, hint=hint)


def check_packages(recipe: Recipe, only: list[str]) -> list[str]:
    """Refuse variants and texts that need packages which are not installed; all of them are named at once.

    Variants that were not asked for by name, and need a package that does not install everywhere, are left out instead,
    which is said.

    Returns:
        The names of the variants that remain; `only` if none is left out.

    Raises:
        ArtifactError: a package is missing; the hint has the command that installs them.
        RecipeError: a name in `only` is not in the recipe.
    """
    needs = missing_of_variants(recipe.needed(only))
    if left_out := {} if only else {name: absent for name, absent in needs.items() if set(absent) & {*NOT_EVERYWHERE}}:
        only = [name for name in recipe.variants() if name not in left_out]
        packages = " ".join(dict.fromkeys(package for absent in left_out.values() for package in absent))
        names = " and ".join(left_out)
        Notices(progress_console).notice(f"{names} left out: without {packages} (pip install {packages})")
        needs = missing_of_variants(recipe.needed(only))
    texts = [recipe.settings.evaluation.text]
    if recipe.settings.calibration and recipe.calibrates(only):
        texts.append(recipe.settings.calibration.text)
    parquet = any((text.file or "").lower().endswith(".parquet") for text in texts)
    absent = missing_packages("pyarrow") if parquet else []
    if absent:
        needs["a parquet text"] = absent
    without = [name for name in recipe.variants(only) if not missing_of_variants(recipe.needed([name]))]
    choice, verb = " ".join(f"--only {name}" for name in without), "needs" if len(without) == 1 else "need"
    others = "" if absent or not without else f"or {choice}, which {verb} nothing more"
    refuse_missing(needs, others)
    return only
