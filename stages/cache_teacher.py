"""`pipeline cache-teacher`: run the teacher once over a dataset and keep its soft targets."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pipeline.caching import make_cache, plan_cache, tell_cache
from pipeline.recipe import Recipe, require_tables

STAGE = "cache-teacher"


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
    if dry_run:
        # It brings what trains students, which the pass itself can start without.
        from pipeline.estimate import estimate_cache

        return estimate_cache(recipe, folder, plan, quiet=quiet)
    return make_cache(folder, plan, stage=STAGE, quiet=quiet, order=order)


def tell(summary: dict[str, Any]) -> str:
    """Say what there is now, or what it would cost."""
    if "costs" not in summary:
        return tell_cache(summary)
    from pipeline.estimate import tell_estimate

    return tell_estimate(summary)
