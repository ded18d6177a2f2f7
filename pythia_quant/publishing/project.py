"""This project, as its package's metadata names it: its address, and how to install it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import metadata

_ADDRESS = re.compile(r"https://[A-Za-z0-9][\w./~:@+-]*", re.ASCII)


@dataclass(frozen=True)
class Project:
    """A package, and where its source is.

    Attributes:
        name: the name of the package.
        url: the address of its git repository, as ``Source`` in ``[project.urls]`` of pyproject.toml names it; empty
            if it is not named there.
    """

    name: str
    url: str

    def install(self, extra: str) -> str:
        """Return the shell command that installs the package with an extra; with none if `extra` is empty.

        The package is on no index. Without an address, the command is for a checkout.
        """
        extras = f"[{extra}]" if extra else ""
        if self.url:
            return f"pip install '{self.name}{extras} @ git+{self.url}'"
        return f"pip install '.{extras}'  # in a checkout of {self.name}"


@cache
def this_project() -> Project:
    """Return the installed package."""
    fields = metadata("pythia-quant")
    return Project(fields["Name"], source_address(fields.get_all("Project-URL") or []))


def source_address(urls: list[str]) -> str:
    """Return the address labelled ``Source`` among those of a package's metadata; empty if there is none over https.

    Args:
        urls: of the form ``Label, https://…``.
    """
    for entry in urls:
        label, _, url = entry.partition(",")
        if label.strip().lower() == "source" and _ADDRESS.fullmatch(url.strip()):
            return url.strip()
    return ""
