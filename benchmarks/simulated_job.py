"""A job of `ray_cluster.py` that measures nothing. Ray workers import this module, so it imports little."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

SECONDS = 0.5
TEMPLATE, KEY = "template.json", "key-of-the-template"


def do(task: dict[str, Any]) -> dict[str, str]:
    """Take as long as a simulated job does, and store a copy of a real job's result under its key."""
    due = time.monotonic() + SECONDS
    store = Path(task["store"])
    content = (store.parent / TEMPLATE).read_text()
    for job in task["jobs"]:
        scratch = store / f".{job['key']}"
        scratch.write_text(content.replace(KEY, job["key"]))
        scratch.replace(store / "results" / f"{job['key']}.json")
    time.sleep(max(0.0, due - time.monotonic()))
    return {job["row"]: "done" for job in task["jobs"]}
