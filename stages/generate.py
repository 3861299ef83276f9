"""`pipeline generate`: let the teacher write text, and keep its soft targets on what it wrote."""

from functools import partial
from typing import Any

from pipeline.caching import make_cache, plan_written, tell_cache, tell_kept
from pipeline.caching.spread import make_cache_there
from pipeline.progress import says_what_is_kept
from pipeline.recipe import Recipe, require_tables

STAGE = "generate"


def run(recipe: Recipe, *, dry_run: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Write what a recipe asks for, or what is missing of it, as a cache that keeps the text.

    Raises: PipelineError for everything a user can mend, before the long work where it can be
        known.
    """
    require_tables(recipe, STAGE, "teacher", "targets", "generate")
    assert recipe.generate
    folder = recipe.locate_cache(recipe.generate.path)
    plan = partial(plan_written, recipe, quiet=quiet)
    if dry_run:
        # It brings what trains students, which the pass itself can start without.
        from pipeline.estimate import estimate_cache

        return estimate_cache(recipe, folder, plan, quiet=quiet)
    with says_what_is_kept(partial(tell_kept, folder)):
        if recipe.compute:
            return make_cache_there(recipe, folder, stage=STAGE, is_written=True, quiet=quiet)
        return make_cache(folder, plan, stage=STAGE, quiet=quiet)


def tell(summary: dict[str, Any]) -> str:
    """Say what there is now, and how a student reads it."""
    if "costs" in summary:
        from pipeline.estimate import tell_estimate

        return tell_estimate(summary)
    reader = f'kind = "cache", path = "{summary["cache"]}"'
    return f"{tell_cache(summary)}\n  a student reads the text with {reader}"
