"""Pieces of a page as HTML: tables, figures, facts, bars. All text is escaped here.

A function takes plain text and numbers and gives HTML; only what is called `html` is taken as such.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pipeline.report.names import printable

NOTHING = "–"
# Tables of more rows than these can be filtered.
FILTER_FROM = 9


def text(value: Any) -> str:
    """Escape what is shown as text, in an element or in an attribute; and what no page may hold."""
    return escape(printable(str(value)), quote=True)


def number(digits: int) -> Callable[[Any], str]:
    """Make what shows numbers with so many digits behind the point."""
    return lambda value: f"{value:,.{digits}f}"


def percent(value: float) -> str:
    """Show a share."""
    return f"{value:.1%}"


def share(value: float) -> str:
    """Show a share in three digits, however small."""
    return f"{100 * value:.3g}%"


def count_text(count: int) -> str:
    """Show a number of things, a large one in millions."""
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:,.2f} M"


def size_text(size_bytes: float) -> str:
    """Show a number of bytes in the unit that suits it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.2f} {unit}"
    return f"{size_bytes:,.0f} bytes"


@dataclass(frozen=True)
class Column:
    """A heading, and how values below it are shown; `show` of None is for text."""

    heading: str
    show: Callable[[Any], str] | None = None


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Any]],
    *,
    sorts: bool = True,
    is_tall: bool = False,
) -> str:
    """Lay out rows; the first value of each heads its row. A value of None is shown as a dash."""
    head = "".join(
        f'<th scope="col"{" class=number" if column.show else ""}>{text(column.heading)}</th>'
        for column in columns
    )
    body = [_row(columns, row) for row in rows]
    marks = ["sorts"] if sorts and len(body) > 1 else []
    marks += ["filters"] if sorts and len(body) >= FILTER_FROM else []
    return (
        f'<div class="scrolls{" tall" if is_tall else ""}" tabindex="0" role="region" '
        f'aria-label="{text(caption)}">'
        f'<table class="{" ".join(marks)}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _row(columns: Sequence[Column], row: Sequence[Any]) -> str:
    cells = []
    for place, (column, value) in enumerate(zip(columns, row, strict=True)):
        tag = 'th scope="row"' if place == 0 else "td"
        shown = NOTHING if value is None else column.show(value) if column.show else str(value)
        about = ""
        if column.show:
            about = ' class="number"' + ("" if value is None else f' data-value="{float(value)!r}"')
        cells.append(f"<{tag}{about}>{text(shown)}</{tag.split()[0]}>")
    return f"<tr>{''.join(cells)}</tr>"


def facts(named: Mapping[str, str]) -> str:
    """List what is known, by name; what is empty is left out."""
    pairs = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
        for name, value in named.items()
        if value
    )
    return f'<dl class="facts">{pairs}</dl>'


def tiles(named: Mapping[str, str]) -> str:
    """Show a few numbers large, with what they are below."""
    pairs = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in named.items()
    )
    return f'<dl class="tiles">{pairs}</dl>' if pairs else ""


def figure(html: str, caption: str, numbers_html: str = "") -> str:
    """Show a drawing with what it says; its numbers unfold below."""
    unfold = f"<details><summary>Numbers</summary>{numbers_html}</details>" if numbers_html else ""
    return f"<figure>{html}<figcaption>{text(caption)}</figcaption>{unfold}</figure>"


def figures(pieces_html: Iterable[str]) -> str:
    """Put drawings side by side, as many as there is room for."""
    joined = "".join(pieces_html)
    return f'<div class="figures">{joined}</div>' if joined else ""


def section(key: str, heading: str, *pieces_html: str, level: int = 2) -> str:
    """Make a part of the page that links lead to."""
    return (
        f'<section id="{key}" aria-labelledby="{key}-heading">'
        f'<h{level} id="{key}-heading">{text(heading)}</h{level}>{"".join(pieces_html)}</section>'
    )


def paragraph(value: str, kind: str = "") -> str:
    """Say a sentence."""
    return f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def chip(name: str) -> str:
    """Set a class's name off from the words around it."""
    return f'<span class="chip">{text(name)}</span>'


def bar(name: str, share: float, told: Sequence[str], *, is_marked: bool = False) -> str:
    """Show a share as a bar, with its name before and what is told of it behind."""
    wide = f"{100 * min(max(share, 0.0), 1.0):.1f}"
    behind = "".join(f'<span class="told">{text(each)}</span>' for each in told)
    marks = ["marked"] * is_marked + ["two"] * (len(told) == 2)
    mark = f' class="{" ".join(marks)}"' if marks else ""
    return (
        f'<li{mark}><span class="name" title="{text(name)}">{text(name)}</span>'
        f'<span class="bar" aria-hidden="true"><span style="width:{wide}%"></span></span>'
        f"{behind}</li>"
    )


def bars(label: str, rows_html: Iterable[str]) -> str:
    """List bars under what they are of."""
    return f'<p class="label">{text(label)}</p><ul class="bars">{"".join(rows_html)}</ul>'


def sample(identity: str, picture: bytes | None, words: str | None) -> str:
    """Show a sample as what it is, if that is known."""
    if picture is not None:
        coded = b64encode(picture).decode("ascii")
        return f'<img alt="sample {text(identity)}" src="data:image/png;base64,{coded}">'
    return f"<blockquote>{text(words)}</blockquote>" if words is not None else ""


def beside(*pieces_html: str) -> str:
    """Put pieces side by side where there is room."""
    columns = "".join(f"<div>{each}</div>" for each in pieces_html if each)
    return f'<div class="beside">{columns}</div>'


def cards(items_html: Iterable[str]) -> str:
    """Put samples side by side."""
    joined = "".join(f"<li>{each}</li>" for each in items_html)
    return f'<ul class="cards">{joined}</ul>' if joined else ""
