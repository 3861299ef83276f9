"""Making a cache against the teacher's bare forward pass over the same batches.

Ours: every part from files to committed, and the manifest. Baseline: the same network, threads and
batches, which lie in memory already, and nothing is kept. Start-up (scan, plan, loading) is told
apart.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.measure import Figure, Options, interleave, ratios, say
from benchmarks.setting import TEACHER_BATCH, setting
from pipeline.caching import Work, make_parts, plan_cache
from pipeline.models import prepare
from pipeline.recipe import load_recipe
from pipeline.store import finish, missing_parts, write_plan

COMMAND = "scripts/bench cache-teacher"
BAR = 1.05
# Four parts of the default size, made two at a turn.
ROWS, QUICK_ROWS = 32_768, 300
PARTS_A_TURN = 2
ALL = "targets.selection={kind='all'}"
# About 20 ms and 50 ms a batch on two cores; the shipped Fashion-MNIST teacher takes 47.
LIGHT, USUAL = "teacher.model.arguments={width=16}", "teacher.model.arguments={width=32}"
VARIANTS = {
    "light teacher, zarr, top-4 of 10": [LIGHT],
    "zarr, top-4 of 10": [USUAL],
    "zarr, all 10 classes": [USUAL, ALL],
    "zarr with lz4, top-4": [USUAL, "cache.compression='lz4'"],
    "parquet, top-4": [USUAL, "cache.backend='parquet'"],
}


def run(options: Options) -> list[Figure]:
    """Measure every variant."""
    with setting(QUICK_ROWS if options.quick else ROWS) as recipe:
        return [_measure(recipe, name, options) for name in VARIANTS]


def _measure(recipe: Path, name: str, options: Options) -> Figure:
    say(f"cache-teacher: {name}")
    overrides = [*VARIANTS[name], f"teacher.threads={options.threads}"]
    started = time.perf_counter()
    work = plan_cache(load_recipe(recipe, overrides), quiet=True)
    startup_s = time.perf_counter() - started
    turns = _turns(work.plan.part_count)
    ours, baseline = _make(work, name, turns), _forward(work, turns)
    pairs = interleave(lambda: next(ours), lambda: next(baseline), options, len(turns))
    batch_count = sum(1 for _ in _batches(work, range(work.plan.part_count)))
    batch_ms = 1000 * median(forward_s for _, forward_s in pairs) / batch_count
    return Figure(
        f"cache-teacher / bare forward: {name}",
        ratios(pairs),
        "x",
        BAR,
        COMMAND,
        f"{work.plan.rows} rows in {work.plan.part_count} parts, teacher {batch_ms:.1f} ms a batch "
        f"of {TEACHER_BATCH}, start-up {startup_s:.2f} s apart",
    )


def _turns(part_count: int) -> list[range]:
    starts = range(0, part_count, PARTS_A_TURN)
    return [range(start, min(start + PARTS_A_TURN, part_count)) for start in starts]


def _make(work: Work, name: str, turns: list[range]) -> Iterator[float]:
    """Make caches, one after the other, and tell the seconds of each turn."""
    for number in count():
        making = replace(work, folder=work.folder.with_name(f"{name}-{number}"))
        write_plan(making.folder, making.plan)
        for parts in turns:
            started = time.perf_counter()
            make_parts(making, parts, lambda _: None, say)
            if not missing_parts(making.folder, making.plan):
                finish(making.folder, making.plan)
            yield time.perf_counter() - started


def _forward(work: Work, turns: list[range]) -> Iterator[float]:
    """Ask the bare network about the batches of each turn, and tell the seconds."""
    for parts in cycle(turns):
        batches = list(_batches(work, parts))
        with torch.inference_mode():
            started = time.perf_counter()
            for inputs in batches:
                work.network(inputs)
            yield time.perf_counter() - started


def _batches(work: Work, parts: range) -> Iterator[Tensor]:
    for part in parts:
        rows = work.plan.part_range(part)
        for start in range(rows.start, rows.stop, work.batch_size):
            indices = range(start, min(start + work.batch_size, rows.stop))
            yield prepare(work.samples.read(indices).inputs, work.device)
