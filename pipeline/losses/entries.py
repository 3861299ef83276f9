"""What an entry of a recipe's losses says to the loss, and what it says beside."""

from collections.abc import Mapping
from typing import Any

# Which features are compared, when, and through what: looked up before the loss sees anything.
BESIDE = ("kind", "weight", "feature", "module", "projection", "first_steps")


def settings_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Give the keywords of the loss's own function."""
    return {key: value for key, value in entry.items() if key not in BESIDE}
