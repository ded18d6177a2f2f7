"""How `make docs` builds the site. Warnings are errors there, so a link or an anchor that leads nowhere fails."""

import re
from pathlib import Path

from sphinx.application import Sphinx

project = "pythia-quant"
html_title = "pythia-quant"
html_theme = "furo"  # loads nothing from elsewhere
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"exclude-members": "model_config"}
autodoc_member_order = "groupwise"

ELSEWHERE = re.compile(r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//|<link[^>]* href=\"?(?:https?:)?//")


def keep_links_inside(_: Sphinx, __: str, content: list[str]) -> None:
    """Lead links to files of the repository that are not in docs/ to the page that holds them, or show the name."""
    inside = content[0].replace("](../benchmarks/README.md", "](benchmarks.md")
    content[0] = re.sub(r"\[[^]]*\]\(\.\./([^)]+)\)", r"`\1`", inside)


def refuse_other_hosts(app: Sphinx, error: Exception | None) -> None:
    """Refuse a page that loads something from elsewhere.

    Raises:
        ValueError: there is such a page.
    """
    pages = [] if error else sorted(Path(app.outdir).rglob("*.html"))
    for page in pages:
        if match := ELSEWHERE.search(page.read_text(encoding="utf-8")):
            raise ValueError(f"{page} loads from elsewhere: {match[0]}")


def setup(app: Sphinx) -> None:
    """Add our own steps."""
    app.connect("source-read", keep_links_inside)
    app.connect("build-finished", refuse_other_hosts)
