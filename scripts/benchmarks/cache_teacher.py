"""Making a cache against the teacher's bare forward pass over the same batches.

Ours: every part from files to committed, and the manifest. Baseline: the same network, threads and
batches, which lie in memory already, and nothing is kept. Start-up (scan, plan, loading) is told
apart.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
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
# Eight parts of the default size.
ROWS, QUICK_ROWS = 32_768, 300
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
    batches = list(_batches(work))
    folders = (recipe.parent / f"{name}-{number}" for number in range(options.rounds + 1))
    pairs = interleave(
        lambda: _make(replace(work, folder=next(folders))),
        lambda: _forward(work, batches),
        options,
    )
    batch_ms = 1000 * median(forward_s for _, forward_s in pairs) / len(batches)
    return Figure(
        f"cache-teacher / bare forward: {name}",
        ratios(pairs),
        "x",
        BAR,
        COMMAND,
        f"{work.plan.rows} rows in {work.plan.part_count} parts, teacher {batch_ms:.1f} ms a batch "
        f"of {TEACHER_BATCH}, start-up {startup_s:.2f} s apart",
    )


def _make(work: Work) -> float:
    write_plan(work.folder, work.plan)
    started = time.perf_counter()
    make_parts(work, missing_parts(work.folder, work.plan), lambda _: None, say)
    finish(work.folder, work.plan)
    return time.perf_counter() - started


@torch.inference_mode()
def _forward(work: Work, batches: list[Tensor]) -> float:
    started = time.perf_counter()
    for inputs in batches:
        work.network(inputs)
    return time.perf_counter() - started


def _batches(work: Work) -> Iterator[Tensor]:
    for part in range(work.plan.part_count):
        rows = work.plan.part_range(part)
        for start in range(rows.start, rows.stop, work.batch_size):
            indices = range(start, min(start + work.batch_size, rows.stop))
            yield prepare(work.samples.read(indices).inputs, work.device)
