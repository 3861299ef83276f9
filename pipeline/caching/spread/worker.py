"""What a worker does: open the recipe, join the cache, make one part at a time.

The teacher is loaded once and stays in the process for as long as the recipe is the same. Knows
nothing of the scheduler.
"""

import os
import platform
import threading
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from pipeline.caching.make import make_parts
from pipeline.caching.plan import Work, plan_cache, plan_written
from pipeline.caching.whole import begin_together, planned
from pipeline.errors import PipelineError
from pipeline.recipe import load_recipe

# A worker with several threads would ask one teacher from all of them.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Order:
    """What a worker is to make: the cache of a recipe, or of the text that its teacher writes.

    `run` is another one each time, for files may change while a worker stays.
    """

    recipe: str
    overrides: tuple[str, ...]
    is_written: bool
    run: str


@dataclass(frozen=True)
class Refused:
    """Why a worker cannot help at all: its files, its device or its software are others."""

    error: PipelineError


def begin_there(order: Order, _: int = 0) -> dict[str, Any] | Refused:
    """Plan the cache, or join it, and say what is planned."""
    with _one_at_a_time:
        work = _join(order)
    return work if isinstance(work, Refused) else planned(work)


def make_there(order: Order, part: int) -> int | Refused:
    """Make and commit a part, if it is missing; gives its rows.

    Raises: RuntimeError in the words of whatever failed, whose class the client may not know.
    """
    with _one_at_a_time:
        work = _join(order)
        if isinstance(work, Refused):
            return work
        try:
            make_parts(work, [part], lambda rows: None, lambda text: None)
        except PipelineError as error:
            raise RuntimeError(str(error)) from None
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        return len(work.plan.part_range(part))


def _join(order: Order) -> Work | Refused:
    try:
        return _work(order)
    except PipelineError as error:
        error.add_note(f"as the worker sees it, process {os.getpid()} on {platform.node()}")
        return Refused(error)


@lru_cache(maxsize=1)
def _work(order: Order) -> Work:
    recipe = load_recipe(order.recipe, order.overrides)
    plan = partial(plan_written if order.is_written else plan_cache, recipe, quiet=True)
    table = recipe.generate if order.is_written else recipe.cache
    assert table
    return begin_together(recipe.locate_cache(table.path), plan)
