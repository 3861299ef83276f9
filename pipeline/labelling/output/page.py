"""A page to look at before pseudo-labels are trusted: the surest and the least sure rows, and why.

One HTML file without anything outside of it. It knows rows and what they look like, no data.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.labelling.output.folder import PAGE_FILE

SHOWN = 24
Look = Callable[[Sequence[str]], Sequence[bytes | str | None]]
SECTIONS = {
    "surest": "The surest",
    "least sure of the chosen": "The least sure of those that were chosen",
    "left out": "The surest of those that were left out",
    "least sure": "The least sure of all",
}
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; }
h2 { margin-top: 2rem; font-size: 1.1rem; }
ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 0.8rem; }
li { border: 1px solid #ccc; border-radius: 4px; padding: 0.5rem; width: 15rem; }
img { display: block; margin-bottom: 0.4rem; image-rendering: pixelated; }
p { margin: 0.2rem 0; overflow-wrap: anywhere; }
.id, .why { color: #666; font-size: 0.8rem; }
.bar { background: #eee; height: 0.4rem; } .bar div { background: #36c; height: 100%; }
"""


@dataclass
class Gathered:
    """The rows for each section so far, as many as are shown: their keys, and the columns."""

    rows: dict[str, list[tuple[float, dict[str, Any]]]] = field(
        default_factory=lambda: {name: [] for name in SECTIONS}
    )

    def add(self, columns: Mapping[str, Any], doubt: Any) -> None:
        """Look through some more rows. Shapes: each column and doubt (n,)."""
        chosen = np.asarray(columns["chosen"])
        for name, among, sign in (
            ("surest", np.ones_like(chosen), 1),
            ("least sure of the chosen", chosen, -1),
            ("left out", ~chosen, 1),
            ("least sure", np.ones_like(chosen), -1),
        ):
            places = np.flatnonzero(among)
            order = places[np.argsort(sign * doubt[places], kind="stable")[:SHOWN]]
            found = [(float(sign * doubt[each]), _row(columns, int(each))) for each in order]
            merged = sorted(self.rows[name] + found, key=lambda pair: pair[0])
            self.rows[name] = merged[:SHOWN]


def _row(columns: Mapping[str, Any], place: int) -> dict[str, Any]:
    names = ("id", "label", "label_name", "confidence", "margin", "copies", "why_not")
    return {name: columns[name][place] for name in names}


def write_page(folder: Path, title: str, gathered: Gathered, look: Look | None) -> Path:
    """Write the page; `look` shows samples by their ids, if the data is at hand."""
    sections = "".join(
        _section(heading, [row for _, row in gathered.rows[name]], look)
        for name, heading in SECTIONS.items()
        if gathered.rows[name]
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>{sections}</html>\n"
    )
    path = folder / PAGE_FILE
    path.write_text(page, encoding="utf-8")
    return path


def _section(heading: str, rows: Sequence[Mapping[str, Any]], look: Look | None) -> str:
    seen = look([row["id"] for row in rows]) if look else [None] * len(rows)
    items = "".join(map(_item, rows, seen))
    return f"<h2>{escape(heading)}</h2><ul>{items}</ul>"


def _item(row: Mapping[str, Any], seen: bytes | str | None) -> str:
    shown = ""
    if isinstance(seen, bytes):
        shown = f'<img alt="" src="data:image/png;base64,{b64encode(seen).decode()}">'
    elif seen is not None:
        shown = f"<p>{escape(seen)}</p>"
    name = row["label_name"] or str(row["label"])
    why = f'<p class="why">{escape(row["why_not"].replace("_", " "))}</p>' if row["why_not"] else ""
    if row["copies"] > 1:
        why = f'<p class="why">{row["copies"]} times an epoch</p>'
    return (
        f"<li>{shown}<p><b>{escape(name)}</b> {row['confidence']:.4f}, margin "
        f'{row["margin"]:.4f}</p><div class="bar"><div style="width:{row["confidence"]:.0%}"></div>'
        f'</div>{why}<p class="id">{escape(row["id"])}</p></li>'
    )
