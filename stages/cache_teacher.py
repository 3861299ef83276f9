"""`pipeline cache-teacher`: run the teacher once over a dataset and keep its soft targets."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from pipeline.caching import (
    Share,
    finish_cache,
    make_cache,
    plan_cache,
    tell_cache,
    tell_digest,
    tell_kept,
)
from pipeline.caching.spread import make_cache_there
from pipeline.errors import PipelineError
from pipeline.progress import says_what_is_kept
from pipeline.recipe import Recipe, require_tables
from pipeline.store import Where, read_plan

STAGE = "cache-teacher"


def run(
    recipe: Recipe,
    *,
    dry_run: bool = False,
    quiet: bool = False,
    order: Sequence[int] | None = None,
    part_range: str | None = None,
    finish: bool = False,
) -> dict[str, Any]:
    """Make the cache that a recipe describes, or what is missing of it.

    `order` lists the parts in the order they are to be made; the bytes do not depend on it. A
    `part_range` such as "3/8" makes a share of them; with `finish` none is made, and the cache is
    completed. Where the recipe has [compute], its workers make the parts.

    Raises: PipelineError for everything a user can mend, before the long work where it can be
        known.
    """
    require_tables(recipe, STAGE, "teacher", "targets", "cache")
    assert recipe.cache
    folder, plan = recipe.locate_cache(recipe.cache.path), partial(plan_cache, recipe, quiet=quiet)
    share = parse_share(part_range) if part_range is not None else None
    if finish:
        return _finish(folder, share, dry_run)
    if dry_run and not share:
        # It brings what trains students, which the pass itself can start without.
        from pipeline.estimate import estimate_cache

        return estimate_cache(recipe, folder, plan, quiet=quiet)
    with says_what_is_kept(partial(tell_kept, folder)):
        if recipe.compute and not share:
            return make_cache_there(recipe, folder, stage=STAGE, quiet=quiet)
        return make_cache(folder, plan, stage=STAGE, quiet=quiet, order=order, share=share)


def parse_share(text: str) -> Share:
    """Read i/n.

    Raises: PipelineError if it is not i of n, from 1.
    """
    if re.fullmatch("[0-9]{1,9}/[0-9]{1,9}", text):
        share = Share(*map(int, text.split("/")))
        if 1 <= share.index <= share.of:
            return share
    raise PipelineError(
        f"--part-range {text}: must be i/n with i from 1 to n, such as 3/8 for the third of eight. "
        "Schedulers that count from 0 need i + 1."
    )


def _finish(folder: Where, share: Share | None, dry_run: bool) -> dict[str, Any]:
    """Complete what is there; neither data nor teacher is opened."""
    if share or dry_run:
        other = "--part-range" if share else "--dry-run"
        raise PipelineError(f"--finish: makes no part, so it cannot go with {other}; give one.")
    plan = read_plan(folder)
    found = {"cache": str(folder), "rows": plan.rows, "parts": plan.part_count}
    return found | finish_cache(folder, plan)


def tell(summary: dict[str, Any]) -> str:
    """Say what there is now, or what it would cost, and what comes next."""
    if "costs" in summary:
        from pipeline.estimate import tell_estimate

        return tell_estimate(summary)
    if "made_rows" in summary or "digest" not in summary:
        return tell_cache(summary)
    head = f"{summary['cache']}: {summary['rows']} rows in {summary['parts']} parts, complete"
    return f"{head}\n{tell_digest(summary)}"
