"""About the memory and disk that a conversion takes, and whether this machine has as much."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil

from pythia_quant.core.errors import ArtifactError, without_links
from pythia_quant.core.machine import memory_available
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.format import Costs
from pythia_quant.formats.table import format_of
from pythia_quant.model.architecture import Architecture

ANYWAY = "PYTHIA_QUANT_LOW_MEMORY"
"""The variable that lets a conversion begin although memory or disk seem to be too small: with ``1``."""
WHOLE_MODEL_BYTES = 1_000_000_000
"""The check after a conversion loads an artifact up to this size whole, as users load it. A larger one might not fit
in memory."""
PROBE_WINDOWS, PROBE_TOKENS = 2, 64
"""The windows that the check after a conversion runs, and the most tokens of each."""
_OTHER_FILES = 5_000_000


def artifact_bytes(shape: Architecture, settings: VariantSettings) -> int:
    """Estimate the bytes of an artifact's weights; embeddings and head are two matrices there, also tied ones."""
    linear, rest = settings.stored_bits()
    outside = 2 * shape.vocabulary * shape.width
    return int((shape.non_embedding_parameters * linear + outside * rest) / 8)


def conversion_needs(shape: Architecture, settings: VariantSettings, calibration_tokens: int) -> Costs:
    """Estimate what a conversion takes at most: memory of all its processes, and disk with the artifact, bytes.

    The memory is what its processes hold together, where pages that several of them map count once. The check at
    the end takes the most of it, or solving does, see ``costs`` of the formats. benchmarks/memory_forecast.py compares.
    """
    entry, size = format_of(settings), artifact_bytes(shape, settings)
    solving, scratch = entry.costs(settings, shape, calibration_tokens)
    in_layers = entry.in_layers and size > WHOLE_MODEL_BYTES
    checking = 8 * shape.vocabulary * shape.width if in_layers else entry.held_of_weights * size  # two heads in fp32
    logits = 4 * PROBE_WINDOWS * PROBE_TOKENS * shape.vocabulary  # those intended, which the check reads from a file
    return Costs(entry.held + int(max(checking, solving)), int(size * 1.05) + logits + scratch + _OTHER_FILES)


def describe(needs: Costs) -> str:
    """Return in words what a conversion takes."""
    return f"about {_size(needs.memory)} of memory and {_size(needs.disk)} of disk"


def check_needs(needs: Costs, target: Path) -> None:
    """Refuse a conversion that needs more disk or memory than is free, unless ``PYTHIA_QUANT_LOW_MEMORY`` is 1.

    Args:
        needs: what it takes.
        target: the target folder, whose disk is meant.

    Raises:
        ArtifactError: something is too small; the message says how much is needed and how much is free.
    """
    existing = next(folder for folder in without_links(target).parents if folder.exists())
    # What this process holds already, such as libraries, is part of what is needed.
    free = {
        "disk": (needs.disk, shutil.disk_usage(existing).free, "free some, or choose another --out"),
        "memory": (
            needs.memory,
            memory_available() + psutil.Process().memory_info().rss,
            "end other programs, raise the limit of the container or job, or take a smaller model",
        ),
    }
    for what, (needed, there, hint) in free.items():
        if needed > there and os.environ.get(ANYWAY) != "1":
            raise ArtifactError(
                f"needs about {_size(needed)} of {what}, {_size(there)} are free",
                where=str(target),
                hint=f"{hint}; {ANYWAY}=1 tries it all the same",
            )


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count < 999_500_000 else f"{count / 1e9:,.1f} GB"
