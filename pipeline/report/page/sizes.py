"""Bytes a position against what they lose, on the page."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.report.page.pieces import Column, beside, figure, number, section, table
from pipeline.report.page.plots import draw_sizes

LABELS = {"ours": "best split", "others": "top-k, uniform tail"}


def sizes_section(key: str, path: Path, points: Sequence[dict[str, float]]) -> str:
    """Show what `scripts/bench size` measured."""
    temperatures = sorted({each["temperature"] for each in points})
    curves = {
        f"T = {temperature:g}, {told}": [
            (each["bytes"], each[name]) for each in points if each["temperature"] == temperature
        ]
        for temperature in temperatures
        for name, told in LABELS.items()
    }
    columns = [
        *(Column("bytes", number(0)), Column("T", number(0))),
        *(Column(each, number(3)) for each in LABELS.values()),
    ]
    rows = [[each[n] for n in ("bytes", "temperature", *LABELS)] for each in points]
    drawn = figure(
        draw_sizes(f"{key}-curve", "Divergence by bytes a position", curves),
        "KL(teacher, what is read back) by bytes a position: the best split between kept classes "
        "and the tail's shape (solid), and top-k in float16 with a uniform tail (dashed).",
    )
    listed = table("Divergence by bytes, nats", columns, rows)
    return section(key, f"Size and quality: {path.name}", beside(drawn, listed))
