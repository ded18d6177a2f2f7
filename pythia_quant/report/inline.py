"""A matplotlib SVG as part of a page: its colours follow the page's, and it needs no inline style, which the page's
Content-Security-Policy blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

from pythia_quant.report.theme import LIGHT, slots

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_ELEMENTS = ("g", "path", "text", "use", "defs", "clipPath", "rect", "tspan")
_ATTRIBUTES = ("d", "x", "y", "width", "height", "transform", "clip-path", "viewBox")
_PROPERTIES = ("fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin",
               "fill-opacity", "stroke-opacity", "opacity", "text-anchor", "font-style", "font-size")  # fmt: skip
_COLORS = {color: f"var(--{slot})" for slot, color in slots(LIGHT).items()} | {
    LIGHT.paper: "var(--paper)", LIGHT.ink: "var(--ink)", LIGHT.muted: "var(--muted)", LIGHT.grid: "var(--grid)"
}  # fmt: skip


class Mark(NamedTuple):
    """What the page knows of a row that a plot draws: the key of the row there, and the text of a tooltip."""

    key: str
    text: str


def inline_svg(content: bytes, name: str, description: str, marks: Mapping[str, Mark] | None = None) -> Markup:
    """Return the SVG element of a plot drawn in the light theme.

    Only elements and attributes that plots need are copied, whatever else matplotlib may write.

    Args:
        content: the SVG that matplotlib wrote.
        name: the beginning of all ids; unique on the page.
        description: what a screen reader says of the plot.
        marks: the marks of the rows, by the ids of their elements in `content`.
    """
    source = ElementTree.fromstring(content)  # noqa: S314 - this program has just written it
    ids = {old: f"{name}-{index}" for index, old in enumerate(_ids(source))}
    root = ElementTree.Element("svg", {"viewBox": source.get("viewBox", ""), "role": "img", "aria-label": description})
    for child in source:
        _copy(child, root, ids, marks or {})
    # The serializer escapes text and attributes; HTML reads the rest as XML does.
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704


def _ids(source: ElementTree.Element) -> list[str]:
    """Return the ids that a reference uses; the many others only name groups."""
    text = ElementTree.tostring(source, encoding="unicode")
    matches = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    return sorted({first or second for first, second in matches})


def _copy(
    element: ElementTree.Element, parent: ElementTree.Element, ids: Mapping[str, str], marks: Mapping[str, Mark]
) -> None:
    tag = str(element.tag).removeprefix(_SVG)
    if tag not in _ELEMENTS:
        return
    attributes = {key: value for key, value in element.attrib.items() if key in _ATTRIBUTES}
    attributes |= _presentation(element.get("style", ""))
    if "d" in attributes:
        attributes["d"] = _shorten_numbers(attributes["d"])
    for key in ("x", "y"):
        if key in attributes:
            attributes[key] = _shorten_numbers(attributes[key])
    if "clip-path" in attributes:
        attributes["clip-path"] = f"url(#{ids[attributes['clip-path'][5:-1]]})"
    if link := element.get(_LINK):
        attributes["href"] = f"#{ids[link[1:]]}"
    identity = element.get("id", "")
    if identity in ids:
        attributes["id"] = ids[identity]
    if identity in marks:
        attributes["data-row"] = marks[identity].key
    if tag == "g" and not attributes:
        copy = parent  # a group without attributes adds nothing
    else:
        copy = ElementTree.SubElement(parent, tag, attributes)
        copy.text = element.text if tag in ("text", "tspan") else None
    if identity in marks:
        ElementTree.SubElement(copy, "title").text = marks[identity].text
    for child in element:
        _copy(child, copy, ids, marks)


def _presentation(style: str) -> dict[str, str]:
    """Return the presentation attributes that stand for a style."""
    attributes = {}
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            attributes["font-size"] = size[1] if size else "9"
            if "italic" in value:
                attributes["font-style"] = "italic"
        elif key in _PROPERTIES:
            attributes[key] = _COLORS.get(value, value)
    return attributes


def _shorten_numbers(numbers: str) -> str:
    """Cut coordinates to hundredths of a point: three quarters of a plot's bytes are digits."""
    return " ".join(re.sub(r"(\.\d\d)\d+", r"\1", numbers).split())
