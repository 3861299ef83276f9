"""Making a cache against the teacher's bare forward pass over the same batches.

Ours: every part from files to committed, and the manifest. Baseline: the same network, threads and
batches, which lie in memory already, and nothing is kept. Start-up (scan, plan, loading) is told
apart.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.measure import Figure, Options, say
from benchmarks.setting import setting
from pipeline.caching import Work, make_parts, plan_cache
from pipeline.estimate.clock import wait_for
from pipeline.models import prepare
from pipeline.recipe import load_recipe
from pipeline.store import finish, write_plan

COMMAND = "scripts/bench cache-teacher"
BAR = 1.05
# Six parts of the default size: a round makes the whole cache, as a run does, and ends it once.
ROWS, QUICK_ROWS = 49_152, 300
# Batches: half a part. After so many of ours the bare network is asked about as many, for moods of
# a shared machine last longer; what a part leaves to the writer is then done behind ours again.
ASIDE = 16
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
        return [measure(recipe, name, VARIANTS[name], options) for name in VARIANTS]


def measure(
    recipe: Path, name: str, overrides: list[str], options: Options, command: str = COMMAND
) -> Figure:
    """Make a recipe's cache so many times, beside its teacher's bare forward pass."""
    say(f"cache-teacher: {name}")
    overrides = [*overrides, f"teacher.threads={options.threads}"]
    started = time.perf_counter()
    work = plan_cache(load_recipe(recipe, overrides), quiet=True)
    startup_s = time.perf_counter() - started
    folders = (Path(f"{work.folder}-{name}-{number}") for number in count())
    batches = list(_batches(work))
    rounds = options.rounds + (not options.quick)  # one for warmth
    pairs = [_round(replace(work, folder=next(folders)), batches) for _ in range(rounds)]
    pairs = pairs[-options.rounds :]
    batch_ms = 1000 * median(forward_s for _, forward_s in pairs) / len(batches)
    return Figure(
        f"cache-teacher / bare forward: {name}",
        [ours_s / forward_s for ours_s, forward_s in pairs],
        "x",
        BAR,
        command,
        f"{work.plan.rows} rows in {work.plan.part_count} parts, teacher {batch_ms:.1f} ms a batch "
        f"of {work.batch_size}, start-up {startup_s:.2f} s apart",
    )


def _round(work: Work, batches: list[Tensor]) -> tuple[float, float]:
    """Make a whole cache, and tell the seconds of it and of the bare network's asides."""
    waiting, asked, baseline_s = iter(batches), 0, 0.0

    def take_turns(_: int) -> None:
        nonlocal asked, baseline_s
        asked += 1
        if asked % ASIDE == 0:
            baseline_s += _forward(work, islice(waiting, ASIDE))

    write_plan(work.folder, work.plan, work.shape.shared)
    started = time.perf_counter()
    make_parts(work, range(work.plan.part_count), take_turns, say)
    finish(work.folder, work.plan)
    ours_s = time.perf_counter() - started - baseline_s
    return ours_s, baseline_s + _forward(work, waiting)


@torch.inference_mode()
def _forward(work: Work, batches: Iterator[Tensor]) -> float:
    """Ask the bare network about batches, and tell the seconds."""
    started = time.perf_counter()
    for inputs in batches:
        for _ in work.network(inputs).blocks():  # logits and all
            pass
    wait_for(work.device)
    return time.perf_counter() - started


def _batches(work: Work) -> Iterator[Tensor]:
    for part in range(work.plan.part_count):
        rows = work.plan.part_range(part)
        for start in range(rows.start, rows.stop, work.batch_size):
            indices = range(start, min(start + work.batch_size, rows.stop))
            yield prepare(work.samples.read(indices).inputs, work.device)
