"""What does an experiment consist of? One TOML file, read into frozen models and checked whole.

The only room that knows pydantic and TOML. It opens no dataset, model or cache: whether a recipe
fits them is found where they are opened.
"""

from pipeline.recipe.load import (
    comparable,
    load_recipe,
    recipe_schema,
    require_tables,
    resolved,
)
from pipeline.recipe.recipe import Recipe

__all__ = [
    "Recipe",
    "comparable",
    "load_recipe",
    "recipe_schema",
    "require_tables",
    "resolved",
]
