"""What it costs to hand out a part: Dask's share, with parts that do nothing, and the disk's.

Two local workers. The smallest real part has one row, and is made and committed in this process.
"""

import time

from benchmarks.measure import Figure, Options, say
from benchmarks.setting import setting
from pipeline.caching import make_parts, plan_cache
from pipeline.compute import Workers, ask_workers, open_workers
from pipeline.recipe import load_recipe
from pipeline.store import write_plan

COMMAND = "scripts/bench scheduling"
# 200 parts a second, and a part whose teacher takes longer than that is not worth talking of.
BAR_MS, COMMIT_BAR_MS = 5.0, 50.0
TASKS, QUICK_TASKS = 2000, 20
PARTS, QUICK_PARTS = 200, 5


def run(options: Options) -> list[Figure]:
    """Measure both."""
    return [_schedule(options), _commit(options)]


def _schedule(options: Options) -> Figure:
    say("scheduling: parts that do nothing")
    tasks = QUICK_TASKS if options.quick else TASKS
    with open_workers("local", workers=2) as workers:
        _task_ms(workers, tasks // 10)
        values = [_task_ms(workers, tasks) for _ in range(options.rounds)]
    note = f"{tasks} parts through two local workers"
    return Figure("a part that does nothing", values, "ms", BAR_MS, COMMAND, note)


def _task_ms(workers: Workers, count: int) -> float:
    started = time.perf_counter()
    assert len(list(ask_workers(workers, abs, range(count)))) == count
    return 1000 * (time.perf_counter() - started) / count


def _commit(options: Options) -> Figure:
    say("scheduling: parts of one row")
    parts = QUICK_PARTS if options.quick else PARTS
    with setting(parts * (options.rounds + 1)) as recipe:
        overrides = ["cache.rows_per_part=1", "teacher.threads=1"]
        work = plan_cache(load_recipe(recipe, overrides), quiet=True)
        write_plan(work.folder, work.plan)
        values = []
        for start in range(0, work.plan.rows, parts):
            started = time.perf_counter()
            make_parts(work, range(start, start + parts), lambda rows: None, say)
            values.append(1000 * (time.perf_counter() - started) / parts)
    note = f"{parts} parts of one image, claimed, answered, written, flushed to the disk, recorded"
    return Figure("the smallest part", values[1:], "ms", COMMIT_BAR_MS, COMMAND, note)
