"""Writing what was kept of a language model's answers, against writing as many raw bytes.

A part is committed as `cache-teacher` does it: laid out, compressed, hashed, written, flushed to
the disk and recorded. Selecting is not in it: `scripts/bench losses` measures that.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import lm_targets
from benchmarks.lm_targets import PART_ROWS, POSITIONS, Arrays
from benchmarks.measure import Figure, Options, interleave, ratios, say
from pipeline.compute import keep_freed_memory, set_threads
from pipeline.store import commit_part

COMMAND = "scripts/bench write"
# 500,000 positions a second.
BAR_US, RAW_BAR = 2.0, 4.0
KINDS = (("zarr", "none"), ("zarr", "lz4"), ("parquet", "none"))


def run(options: Options) -> list[Figure]:
    """Commit one part again and again, in every layout."""
    set_threads(1)
    keep_freed_memory()
    rows = PART_ROWS // 4 if options.quick else PART_ROWS
    arrays = lm_targets.draw(0, rows)
    figures = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        for backend, compression in KINDS:
            say(f"write: {backend}, {compression}")
            ours = _committing(folder / "cache", backend, compression, arrays)
            rounds = interleave(ours, lambda: _write_raw(folder / "raw", arrays), options, turns=3)
            figures += _figures(f"{backend} {compression}", rounds, rows)
    return figures


def _figures(kind: str, rounds: list[list[tuple[float, float]]], rows: int) -> list[Figure]:
    times_us = [
        1e6 * sorted(ours for ours, _ in pairs)[len(pairs) // 2] / (rows * POSITIONS)
        for pairs in rounds
    ]
    return [
        Figure(f"committing a position of top-64, {kind}", times_us, "us", BAR_US, COMMAND),
        Figure(
            f"the same, {kind} / writing and flushing the raw bytes",
            ratios(rounds),
            "x",
            RAW_BAR,
            COMMAND,
        ),
    ]


def _committing(
    folder: Path, backend: str, compression: str, arrays: Arrays
) -> Callable[[], float]:
    rows = len(arrays["tokens"])
    plan, table = lm_targets.plan_of(rows, backend, compression), lm_targets.table_of(range(rows))

    def commit() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        with lm_targets.planned(folder, plan):
            started = time.perf_counter()
            commit_part(folder, plan, 0, table, arrays, {})
            return time.perf_counter() - started

    return commit


def _write_raw(path: Path, arrays: Arrays) -> float:
    path.unlink(missing_ok=True)
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        os.fsync(file.fileno())
    return time.perf_counter() - started
