"""The caches that a recipe names: where they lie, and where copies of what is read are kept."""

import os
from pathlib import Path
from tempfile import gettempdir

from pipeline.progress import say
from pipeline.recipe import Recipe
from pipeline.recipe.schema import SpoolTable
from pipeline.store import Cache, Spool, follow_cache, open_cache


def open_named(recipe: Recipe, place: str) -> Cache:
    """Open a cache by its place in the recipe; what is read of an object store is kept nearby.

    Raises: CacheError if there is no complete cache.
    """
    table = recipe.spool or SpoolTable()
    folder = recipe.locate(table.path) if table.path else _default_folder()
    where, spool = recipe.locate_cache(place), Spool(folder, table.max_bytes)
    if is_followed(recipe, place):
        return follow_cache(where, spool, tell=say)
    return open_cache(where, spool)


def is_followed(recipe: Recipe, place: str) -> bool:
    """Whether a cache is to be read while it is made."""
    is_taught = recipe.cache is not None and recipe.cache.path == place
    return is_taught and recipe.training is not None and recipe.training.follow


def _default_folder() -> Path:
    """Choose a folder that the next run of this user on this machine finds again."""
    return Path(gettempdir()) / f"teacher-logit-cache-{os.getuid()}"
