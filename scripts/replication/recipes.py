"""The recipes that ship, with paths and seeds of this replication in place of their own."""

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.recipe import Recipe, load_recipe

Values = Mapping[str, Path | int | str]

FOLDER = Path(__file__).resolve().parents[2] / "data" / "recipes"

HARD = '[{ kind = "hard_labels", weight = 1.0 }]'
SOFT = (
    '[{ kind = "soft_targets", weight = 0.9, temperature = 4.0 }, '
    '{ kind = "hard_labels", weight = 0.1 }]'
)


def shipped(name: str, values: Values) -> Recipe:
    """Load a recipe that ships; `values` are paths, numbers, or text in TOML, by dotted key.

    Raises: RecipeError if a value is not allowed.
    """
    return load_recipe(
        FOLDER / f"{name}.toml", [f"{key}={as_toml(value)}" for key, value in values.items()]
    )


def as_toml(value: Path | int | str) -> str:
    """Write a path in TOML; other values are TOML already."""
    if isinstance(value, Path):
        return json.dumps(str(value.resolve()), ensure_ascii=False)
    return str(value)
