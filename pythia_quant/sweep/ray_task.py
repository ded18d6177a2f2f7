"""What a Ray worker does. It imports little: the workers of a cluster import torch when they do their first task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pythia_quant.core.machine import tool_version
from pythia_quant.core.process import reply_to


def fault(folder: str | None, tool: str) -> str:
    """Say why jobs of a study cannot be done in this worker; nothing if they can.

    Args:
        folder: the folder of the store, if it is one.
        tool: the name and version of the program that runs the study.
    """
    if tool_version() != tool:
        return f"{tool_version()} is installed there, and {tool} here"
    if folder is not None and not Path(folder).is_dir():
        return f"the store {folder} is not there"
    return ""


def do(function: str, task: dict[str, Any], folder: str | None, tool: str) -> dict[str, Any]:
    """Do a task; return a reply of :func:`~pythia_quant.core.process.reply_to`, or the worker's fault."""
    # The node may have joined the cluster after the others were looked at.
    if why := fault(folder, tool):
        return {"fault": why}
    return reply_to(function, {"task": task})
