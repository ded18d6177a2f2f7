"""Print pip constraints with the lowest version of each package that pyproject.toml promises to users.

Development tools are left out, because only developers install them, and constraints.txt pins them.
``make test-oldest`` installs the package under these constraints and runs the tests there.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

FLOOR = re.compile(r"([A-Za-z0-9_.-]+)>=([0-9][0-9.]*)")
NOT_INSTALLED = ("dev", "docs", "gptq", "all")
"""Extras whose lowest versions are not tried: gptqmodel builds from source, ``all`` names others, ``docs`` is ours."""


def floors(project: dict[str, Any]) -> list[str]:
    """Return ``name==version`` for each package of the project and its extras.

    Args:
        project: the table ``[project]`` of a pyproject.toml.

    Raises:
        ValueError: a package has no lowest version.
    """
    requirements = list(project["dependencies"])
    for extra, packages in project["optional-dependencies"].items():
        if extra not in NOT_INSTALLED:
            requirements += packages
    lowest = []
    for requirement in requirements:
        match = FLOOR.match(requirement)
        if match is None:
            raise ValueError(f"{requirement} has no lowest version")
        lowest.append(f"{match[1]}=={match[2]}")
    return lowest


if __name__ == "__main__":
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    print(*floors(tomllib.loads(text)["project"]), sep="\n")
