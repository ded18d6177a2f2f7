"""Passages as LAMBADA has them."""

import json
from pathlib import Path


def write_passages(folder: Path) -> Path:
    path = folder / "passages.jsonl"
    path.write_text("".join(json.dumps({"text": f"the number after {i} is {i + 1}"}) + "\n" for i in range(5)))
    return path
