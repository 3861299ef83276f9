"""What the client does: have one worker plan, hand out the missing parts, count, and finish.

It opens neither data nor teacher, so it needs no device and may run where one logs in.
"""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from pipeline.caching.spread.worker import Order, Refused, begin_there, make_there
from pipeline.caching.whole import finish_cache
from pipeline.compute import Done, Workers, ask_workers, open_workers
from pipeline.errors import PipelineError
from pipeline.progress import Advance, progress, say
from pipeline.recipe import Recipe
from pipeline.store import Plan, Where, check_folder, missing_parts, read_plan

SHOWN_FAILURES = 5
# With so many parts given up and not one made, something is wrong with all of them.
HOPELESS = 10


def make_cache_there(
    recipe: Recipe, folder: Where, *, stage: str, is_written: bool = False, quiet: bool
) -> dict[str, Any]:
    """Make the cache that is planned, or what is missing of it, on the workers the recipe names.

    Raises: PipelineError for everything a user can mend, and in the end for parts that failed three
        times; the others are made by then.
    """
    assert recipe.compute
    started = time.perf_counter()
    check_folder(folder)
    order = Order(*recipe.source, is_written, run=uuid4().hex)
    with open_workers(**recipe.compute.model_dump()) as workers:
        say(f"{stage}: waiting for {workers}", quiet)
        planned = _begin(workers, order)
        plan = read_plan(folder)
        startup_s = time.perf_counter() - started
        made = _make(workers, order, folder, plan, stage=stage, quiet=quiet)
    found = finish_cache(folder, plan)
    elapsed_s = time.perf_counter() - started - startup_s
    times = {"startup_s": round(startup_s, 3), "elapsed_s": round(elapsed_s, 3)}
    return {**planned, "made_rows": made, **found, **times}


def _begin(workers: Workers, order: Order) -> dict[str, Any]:
    """Have a worker plan, for the device is part of a plan."""
    (done,) = ask_workers(workers, partial(begin_there, order), [0])
    return dict(_accept(done))


def _make(
    workers: Workers, order: Order, folder: Where, plan: Plan, *, stage: str, quiet: bool
) -> int:
    missing = missing_parts(folder, plan)
    left = sum(len(plan.part_range(part)) for part in missing)
    if left < plan.rows:
        say(f"{folder}: {plan.rows - left} of {plan.rows} rows are there already", quiet)
    tasks = ask_workers(workers, partial(make_there, order), missing)
    with progress(
        stage, total=plan.rows, done=plan.rows - left, note=f"into {folder}", quiet=quiet
    ) as advance:
        made, failed = _count(tasks, advance)
    if failed:
        raise PipelineError(_failures(folder, failed, plan.part_count))
    return made


def _count(
    tasks: Iterable[Done[int | Refused]], advance: Advance
) -> tuple[int, Sequence[Done[int | Refused]]]:
    made, failed = 0, list[Done[int | Refused]]()
    for done in tasks:
        if done.error is None:
            rows = _accept(done)
            made += rows
            advance(rows)
            continue
        failed.append(done)
        if len(failed) >= HOPELESS and not made:
            break
    return made, failed


def _accept(done: Done[Any]) -> Any:
    """Take an answer, unless it is that the worker cannot help."""
    if done.error is not None:
        raise done.error
    (answer,) = done.answer
    if isinstance(answer, Refused):
        raise answer.error
    return answer


def _failures(folder: Where, failed: Sequence[Done[Any]], count: int) -> str:
    failed = sorted(failed, key=lambda done: done.question)
    lines = [f"part {done.question}: {done.error}" for done in failed[:SHOWN_FAILURES]]
    more = len(failed) - len(lines)
    return "\n  ".join(
        [
            f"{folder}: {len(failed)} of {count} parts failed, each three times",
            *lines,
            *([f"and {more} more"] if more > 0 else []),
            "Parts that are made are kept; mend what these say and run the same command again.",
        ]
    )
