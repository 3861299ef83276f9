"""No regression unseen: ratios of the short form beside those that were accepted last.

Short runs say little of the truth, and much of what changed: they are compared with their like.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PLACE = Path(__file__).with_name("accepted.json")
SUBJECTS = (
    *("cache-teacher", "train-student", "losses", "features", "stream", "write", "size"),
    "startup",
)
# Only ratios travel from machine to machine.
RATIO = "x"
WORST = 1.5

Figures = Sequence[Mapping[str, Any]]


def ratios_of(figures: Figures) -> dict[str, float]:
    """Give the medians of those that are ratios to a baseline, by what they are of."""
    return {each["what"]: each["median"] for each in figures if each["unit"] == RATIO}


def better(first: Figures, second: Figures) -> Figures:
    """Take of each figure the better of two measurements."""
    others = {each["what"]: each for each in second}
    return [min(each, others.get(each["what"], each), key=_median) for each in first]


def _median(figure: Mapping[str, Any]) -> float:
    return float(figure["median"])


def accept(figures: Figures, place: Path = PLACE) -> None:
    """Keep ratios as those that later ones are compared with."""
    kept = {what: round(ratio, 3) for what, ratio in ratios_of(figures).items()}
    place.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def compare(figures: Figures, place: Path = PLACE) -> tuple[str, list[str]]:
    """Lay ratios out beside the accepted ones; gives a table, and what is worse by half or more.

    A ratio that nobody accepted yet, or that is gone, is worse: it must be seen.
    """
    accepted: dict[str, float] = json.loads(place.read_text(encoding="utf-8"))
    found, lines, worse = ratios_of(figures), ["| what | now | accepted | now / then |"], []
    lines.append("|---|---|---|---|")
    for what in [*found, *(name for name in accepted if name not in found)]:
        now, then = found.get(what), accepted.get(what)
        change = now / then if now is not None and then else float("inf")
        shown = [f"{each:.3f}" if each is not None else "-" for each in (now, then)]
        lines.append(f"| {what} | {shown[0]} | {shown[1]} | {change:.2f} |")
        if change > WORST:
            worse.append(f"{what}: {shown[0]}, accepted was {shown[1]}")
    return "\n".join(lines), worse
