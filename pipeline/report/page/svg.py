"""From matplotlib's SVG to one that is a part of a page: its colours, its letters, its width.

Drawn in stand-ins for colours, which become variables of the page's style, so that one drawing
looks right on light and on dark. It knows no numbers.
"""

import re
from xml.etree import ElementTree

from pipeline.report.page.pieces import text

SERIES = tuple(f"#00000{number}" for number in range(1, 7))
INK, QUIET, GRID, AREA = "#00001a", "#00001b", "#00001c", "#00001d"
VARIABLES = {
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)},
    INK: "currentColor",
    QUIET: "var(--quiet)",
    GRID: "var(--line)",
    AREA: "var(--area)",
}
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_COLOR = re.compile(r"#[0-9a-f]{6}\b")
_FAMILY = re.compile(r"font-family:[^;]*(;|$)\s*")
# Matplotlib up to 3.9 says size and family in one.
_FONT = re.compile(r"font:\s*([\d.]+px)[^;]*")


def page_svg(drawn: str, *, key: str, title: str) -> str:
    """Make a drawing a part of a page; `key` is its own, for names that it refers to itself by."""
    root = ElementTree.fromstring(drawn.encode())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for each in root.iter():
        each.tag = each.tag.removeprefix(_SVG)
        _name(each, key)
        if "style" in each.attrib:
            each.set("style", _style(each.attrib["style"]))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib.clear()
    body = "".join(ElementTree.tostring(each, encoding="unicode") for each in root)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-title">'
        f'<title id="{key}-title">{text(title)}</title>{_pack(body)}</svg>'
    )


def _name(element: ElementTree.Element, key: str) -> None:
    """Keep the names that are referred to, and make them the drawing's own."""
    name = element.attrib.pop("id", None)
    # Groups are named for people who edit a drawing by hand; paths and clips for `use` and `url`.
    if name and element.tag in ("path", "clipPath"):
        element.set("id", f"{key}-{name}")
    if link := element.attrib.pop(_LINK, None):
        element.set("href", f"#{key}-{link.removeprefix('#')}")
    if clip := element.attrib.get("clip-path"):
        element.set("clip-path", clip.replace("url(#", f"url(#{key}-"))


def _style(text: str) -> str:
    text = _FONT.sub(r"font-size: \1", _FAMILY.sub("", text))
    return _COLOR.sub(lambda found: VARIABLES.get(found[0], found[0]), text)


def _pack(body: str) -> str:
    """Drop the white space that only people who read the source would see."""
    return re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", body)).strip()
