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
import torch

from benchmarks import lm_targets
from benchmarks.lm_targets import PART_ROWS, POSITIONS, Arrays
from benchmarks.measure import Figure, Options, interleave, ratios, say
from pipeline.compute import keep_freed_memory, set_threads
from pipeline.models import load_network, prepare
from pipeline.store import commit_part
from pipeline.targets import TargetSpec, encode
from replication.language_tails import ASSETS

COMMAND = "scripts/bench write"
# 500,000 positions a second.
BAR_US, RAW_BAR = 2.0, 4.0
# Of the time that a language model takes for as many positions, %.
SHARE_BAR, CHOOSING_BAR = 2.0, 20.0
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
        if not options.quick:
            figures += _shares(folder / "cache", arrays, options)
    return figures


def _shares(folder: Path, arrays: Arrays, options: Options) -> list[Figure]:
    """Compare with SmolLM2, on as many threads as it is given; without it there is no figure."""
    if not (ASSETS / "smollm2").is_dir():
        say("write: no share of SmolLM2's time: `scripts/assets smollm2` first")
        return []
    set_threads(options.threads)
    network = load_network("transformers", base=ASSETS, where="teacher", path="smollm2")
    tokens = arrays["tokens"][:4].astype(np.int32)
    inputs = np.stack([tokens, np.zeros_like(tokens)], 1)  # one document a row
    commit = _committing(folder, "zarr", "none", arrays)
    spec = TargetSpec("top_k", lm_targets.CLASSES, lm_targets.KEPT)
    rows = len(arrays["tokens"])
    kept, logits = [], list[torch.Tensor]()

    def ask() -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            logits[:] = list(network(prepare(inputs, torch.device("cpu"))).blocks())
        return (time.perf_counter() - started) / sum(map(len, logits))

    def keep() -> float:
        started = time.perf_counter()
        for block in logits:
            encode(spec, block)
        return (time.perf_counter() - started) / sum(map(len, logits))

    written = interleave(lambda: commit() / (rows * POSITIONS), ask, options)
    for _ in range(options.rounds):
        kept.append([(keep(), ask())])
    note = f"SmolLM2 takes {1e6 * written[0][0][1]:,.0f} us a position"
    return [
        Figure(
            f"{what} / SmolLM2's time",
            [100 * each for each in ratios(rounds)],
            "%",
            bar,
            COMMAND,
            note,
        )
        for what, rounds, bar in (
            ("committing top-64", written, SHARE_BAR),
            ("choosing and encoding top-64 with its tail", kept, CHOOSING_BAR),
        )
    ]


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
