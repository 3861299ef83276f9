"""`pipeline cache-teacher`: run the teacher once over a dataset and keep its soft targets."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pipeline.caching import make_cache, plan_cache, tell_cache
from pipeline.recipe import Recipe, require_tables

STAGE = "cache-teacher"
tell = tell_cache


def run(
    recipe: Recipe,
    *,
    dry_run: bool = False,
    quiet: bool = False,
    order: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Make the cache that a recipe describes, or what is missing of it.

    `order` lists the parts in the order they are to be made; the bytes do not depend on it.

    Raises: PipelineError for everything a user can mend, before the long work where it can be
        known.
    """
    require_tables(recipe, STAGE, "teacher", "targets", "cache")
    assert recipe.cache
    folder, plan = recipe.locate_cache(recipe.cache.path), partial(plan_cache, recipe, quiet=quiet)
    return make_cache(folder, plan, stage=STAGE, dry_run=dry_run, quiet=quiet, order=order)
