"""What an entry of a recipe's losses says to the loss, what beside, and what it is called."""

from collections.abc import Mapping, Sequence
from typing import Any

# Which features are compared, when, and through what: looked up before the loss sees anything.
BESIDE = ("kind", "weight", "feature", "module", "projection", "first_steps")


def name_losses(kinds: Sequence[str]) -> list[str]:
    """Name losses by their kinds, in order; one whose kind occurred before is numbered."""
    before = [kinds[:place].count(kind) for place, kind in enumerate(kinds)]
    return [
        kind + (f"_#{count + 1}" if count else "")
        for kind, count in zip(kinds, before, strict=True)
    ]


def settings_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Give the keywords of the loss's own function."""
    return {key: value for key, value in entry.items() if key not in BESIDE}
