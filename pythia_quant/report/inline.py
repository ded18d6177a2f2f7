"""A matplotlib SVG made part of a page: its colours follow the page's, and no style is left for a policy to block."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

from pythia_quant.report.style import LIGHT, slots

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_KEPT = ("g", "path", "text", "use", "defs", "clipPath", "rect", "tspan")
_ATTRIBUTES = ("d", "x", "y", "width", "height", "transform", "clip-path", "viewBox")
_PROPERTIES = ("fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin",
               "fill-opacity", "stroke-opacity", "opacity", "text-anchor", "font-style", "font-size")  # fmt: skip
_COLORS = {color: f"var(--{slot})" for slot, color in slots(LIGHT).items()} | {
    LIGHT.paper: "var(--paper)", LIGHT.ink: "var(--ink)", LIGHT.muted: "var(--muted)", LIGHT.grid: "var(--grid)"
}  # fmt: skip


def inline_svg(content: bytes, name: str, description: str) -> Markup:
    """Return the elements of a plot in the light theme; `name` keeps its ids apart from those of other plots.

    Only elements and attributes that plots need are kept, whatever matplotlib may write.
    """
    source = ElementTree.fromstring(content)  # noqa: S314 - we have just written it
    ids = {old: f"{name}-{index}" for index, old in enumerate(_ids(source))}
    root = ElementTree.Element("svg", {"viewBox": source.get("viewBox", ""), "role": "img", "aria-label": description})
    for child in source:
        _copy(child, root, ids)
    # The serializer escapes text and attributes; HTML reads the rest as XML does.
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704


def _ids(source: ElementTree.Element) -> list[str]:
    """Return the ids that something refers to; the many others only name groups."""
    whole = ElementTree.tostring(source, encoding="unicode")
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', whole))
    return sorted({first or second for first, second in used})


def _copy(element: ElementTree.Element, parent: ElementTree.Element, ids: dict[str, str]) -> None:
    tag = str(element.tag).removeprefix(_SVG)
    if tag not in _KEPT:
        return
    attributes = {key: value for key, value in element.attrib.items() if key in _ATTRIBUTES}
    attributes |= _presentation(element.get("style", ""))
    if "d" in attributes:
        attributes["d"] = _rounded(attributes["d"])
    for key in ("x", "y"):
        if key in attributes:
            attributes[key] = _rounded(attributes[key])
    if "clip-path" in attributes:
        attributes["clip-path"] = f"url(#{ids[attributes['clip-path'][5:-1]]})"
    if link := element.get(_LINK):
        attributes["href"] = f"#{ids[link[1:]]}"
    if (identity := element.get("id")) in ids:
        attributes["id"] = ids[str(identity)]
    if tag == "g" and not attributes:
        copied = parent  # a group that only has a name
    else:
        copied = ElementTree.SubElement(parent, tag, attributes)
        copied.text = element.text if tag in ("text", "tspan") else None
    for child in element:
        _copy(child, copied, ids)


def _presentation(style: str) -> dict[str, str]:
    found = {}
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            found["font-size"] = size[1] if size else "9"
            if "italic" in value:
                found["font-style"] = "italic"
        elif key in _PROPERTIES:
            found[key] = _COLORS.get(value, value)
    return found


def _rounded(numbers: str) -> str:
    """Cut coordinates to hundredths of a point: three in four bytes of a plot are digits."""
    return " ".join(re.sub(r"(\.\d\d)\d+", r"\1", numbers).split())
