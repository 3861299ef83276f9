"""Two workers of one thread against one, for a teacher that computes: a cache of the same parts.

Workers have loaded the teacher before the clock starts; a real run is as long as one pleases.
"""

import time
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.measure import Figure, Options, interleave, ratios, say
from benchmarks.setting import setting
from pipeline.caching.spread.worker import Order, begin_there, make_there
from pipeline.compute import Workers, ask_workers, open_workers

COMMAND = "scripts/bench scaling"
# 1.8 times as fast.
BAR = 1 / 1.8
PARTS, QUICK_PARTS, ROWS_PER_PART = 48, 2, 512


def run(options: Options) -> list[Figure]:
    """Measure pairs of caches."""
    parts = QUICK_PARTS if options.quick else PARTS
    say(f"scaling: {parts} parts, one worker and two")
    numbers = count()
    with (
        setting(parts * ROWS_PER_PART) as recipe,
        open_workers("local", workers=1) as one,
        open_workers("local", workers=2) as two,
    ):
        found = interleave(
            lambda: _seconds(two, recipe, next(numbers), parts),
            lambda: _seconds(one, recipe, next(numbers), parts),
            options,
        )
    rows_s = ROWS_PER_PART * parts / min(ours for pairs in found for ours, _ in pairs)
    note = f"{parts} parts of {ROWS_PER_PART} images, two workers {rows_s:,.0f} rows/s at best"
    return [Figure("two workers / one worker", ratios(found), "x", BAR, COMMAND, note)]


def _seconds(workers: Workers, recipe: Path, number: int, parts: int) -> float:
    overrides = (
        f"cache.path=cache-{number}",
        f"cache.rows_per_part={ROWS_PER_PART}",
        "teacher.threads=1",
        "teacher.model.arguments={width=32}",
    )
    order = Order(str(recipe), overrides, is_written=False, run=str(number))
    # More than there are workers, so that each has loaded the teacher.
    list(ask_workers(workers, partial(begin_there, order), range(16)))
    started = time.perf_counter()
    assert all(
        done.answer for done in ask_workers(workers, partial(make_there, order), range(parts))
    )
    return time.perf_counter() - started
