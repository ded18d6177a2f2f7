"""An HTML page that loads nothing, with its styles and its script, which replaces only pages of its kind."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.text import printable
from pythia_quant.report.theme import DARK, LIGHT, MARKERS, Theme, slots

PAGE = "index.html"

_HERE = "pythia_quant.report"


def render_document(package: str, marker: str, **context: Any) -> str:
    """Return the page that ``page.html.jinja`` of a package makes; it extends ``document.html.jinja``.

    Its styles and script are ``page.css`` and ``page.js`` of this package, then those of `package`, if it is another.

    Args:
        package: the package of the template.
        marker: the generator that the page names; see :func:`check_replaceable`.
        context: what the template shows.
    """
    packages = list(dict.fromkeys([_HERE, package]))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, ".") for name in reversed(packages)]), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )  # fmt: skip
    css, script = (
        "".join((files(name) / file).read_text(encoding="utf-8") for name in packages)
        for file in ("page.css", "page.js")
    )
    css = _palette() + css
    return environment.get_template("page.html.jinja").render(
        marker=marker, css=Markup(css), script=Markup(script),  # noqa: S704 - both are files of our packages
        css_hash=_hash(css), script_hash=_hash(script), markers=MARKERS,
        icon={"passed": "✓", "failed": "✗", "undecided": "?"}, **context,
    )  # fmt: skip


def check_replaceable(out: Path, marker: str) -> None:
    """Refuse a folder that is neither empty nor holds a page with this marker.

    Raises:
        BenchmarkError: `out` is such a folder, or a file.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    page = out / PAGE
    if not page.is_file() or f'content="{marker}"'.encode() not in page.read_bytes()[:4096]:
        raise BenchmarkError("is no report of ours and is not empty", where=str(out), hint="choose another folder")


def _palette() -> str:
    """Return the colours of both themes as CSS variables."""

    def variables(theme: Theme) -> str:
        named = slots(theme) | {"paper": theme.paper, "ink": theme.ink, "muted": theme.muted, "grid": theme.grid}
        return "".join(f"--{name}:{color};" for name, color in named.items())

    dark = f"@media (prefers-color-scheme: dark){{:root{{{variables(DARK)}}}}}"
    return f":root{{{variables(LIGHT)}}}\n{dark}\n"


def _hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy names a style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
