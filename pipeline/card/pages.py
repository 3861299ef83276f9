"""The comparison as people read it: a terminal's table, a table of values, a model card.

It lays numbers out; what they are was decided elsewhere.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FILES = {"json": "evaluation.json", "csv": "evaluation.csv", "markdown": "model_card.md"}
NOTHING = "-"
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of the table: its heading, and how a model's value reads."""

    heading: str
    read: Callable[[Document], Any]
    show: Callable[[Any], str]


def _of(name: str) -> Callable[[Document], Any]:
    return lambda row: row.get(name)


def _median(name: str) -> Callable[[Document], Any]:
    return lambda row: (row.get(name) or {}).get("median")


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _number(digits: int) -> Callable[[Any], str]:
    return lambda value: f"{value:,.{digits}f}"


def _spread(row: Document) -> Any:
    return row.get("latency_ms")


def _latency(spread: Document) -> str:
    return f"{spread['median']:.2f} ({spread['least']:.2f}-{spread['most']:.2f})"


def _acceptance(row: Document) -> Any:
    least, most = row.get("acceptance"), row.get("acceptance_at_most")
    return None if least is None else (least, most)


def _range(pair: tuple[float, float]) -> str:
    least, most = pair
    return f"{least:.1%}" if f"{least:.3f}" == f"{most:.3f}" else f"{least:.1%} to {most:.1%}"


# A column that no model has a value of is left out.
COLUMNS = (
    Column("model", _of("name"), str),
    Column("parameters", _of("parameters"), _count),
    Column("MB", lambda row: row["weights_bytes"] and row["weights_bytes"] / 1e6, _number(2)),
    Column("ms a row", _spread, _latency),
    Column("rows/s", _median("rows_a_second"), _count),
    Column("accuracy", _of("accuracy"), _percent),
    Column("perplexity", _of("perplexity"), _number(2)),
    Column("bits a byte", _of("bits_a_byte"), _number(3)),
    Column("kept", _of("quality_kept"), _percent),
    Column("agreement", _of("teacher_agreement"), _percent),
    Column("KL", _of("teacher_kl"), _number(4)),
    Column("accepted", _acceptance, _range),
    Column("ECE", _of("calibration_error"), _number(3)),
)
LEGEND = (
    "ms a row: latency of one row, median and range; rows/s: throughput of a batch; kept: share of "
    "the teacher's accuracy; agreement, KL: with the teacher, in nats at T = 1; accepted: share of "
    "its drafts that the teacher would accept in speculative decoding; ECE: expected calibration "
    "error, 15 equal-width bins"
)


def _cells(rows: Sequence[Document]) -> list[list[str]]:
    """Lay out headings and values, without the columns that nobody has a value of."""
    read = [(column, [column.read(row) for row in rows]) for column in COLUMNS]
    kept = [(column, values) for column, values in read if any(v is not None for v in values)]
    shown = [
        [column.heading, *(NOTHING if v is None else column.show(v) for v in values)]
        for column, values in kept
    ]
    return [list(row) for row in zip(*shown, strict=True)]


def as_text(document: Document) -> str:
    """Lay the comparison out for a terminal."""
    cells = _cells(document["models"])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *rest = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    head = [document["headline"], ""] if document.get("headline") else []
    return "\n".join([*head, *lines, "", *conditions(document)])


def conditions(document: Document) -> list[str]:
    """Say what the numbers stand on, a sentence a line."""
    data, made = document["data"], document["conditions"]
    # Of a slow model fewer.
    rounds = " or ".join(map(str, made["rounds"]))
    threads = f"{made['threads']} thread{'s' if made['threads'] != 1 else ''}"
    lines = [
        f"Quality on data.{data['name']}: {data['rows']:,} rows, {data['positions']:,} positions; "
        f"the teacher's answers {data['answers']}.",
        f"Speed on {made['device']}, {threads}, torch {made['torch']}: medians of {rounds} "
        f"rounds in turns after {made['warm_up']} passes of warmth; throughput in batches of "
        f"{made['batch_size']}.",
    ]
    return lines + [f"Note: {each}." for each in document.get("notes", ())]


def as_csv(document: Document) -> str:
    """Give a line for each model, with every number unrounded."""
    rows = [_flat(row) for row in document["models"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(row: Document) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        nested = value if isinstance(value, Mapping) else None
        flat |= {f"{name}_{key}": each for key, each in nested.items()} if nested else {name: value}
    return flat


def as_markdown(document: Document) -> str:
    """Write a model card: what it is, how it compares, how it was made and is used."""
    header, *rows = _cells(document["models"])
    align = ["---", *("---:" for _ in header[1:])]
    table = [_line(each) for each in (header, align, *rows)]
    made = [f"- {name}: {value}" for name, value in document["made"].items()]
    headline = document.get("headline")
    parts = [
        f"# {_escape(document['name'])}",
        *([f"**{headline[:1].upper()}{headline[1:]}.**"] if headline else []),
        "\n".join(table),
        f"{LEGEND[:1].upper()}{LEGEND[1:]}.",
        "\n".join(conditions(document)),
        "## How it was made",
        "\n".join(made),
        "## How to use it",
        document["use"],
    ]
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escape, cells))} |"


def _escape(text: str) -> str:
    """Keep a name from being read as markup."""
    for sign in "\\|<>`*_[]":
        text = text.replace(sign, f"\\{sign}")
    return text
