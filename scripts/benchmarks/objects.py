"""A student's stream of a cache in an object store on loopback: how long steps wait for data.

The store is moto in a process of its own, slower than any real one on the same machine; the
spool begins empty and is smaller than the cache, so every part is downloaded once an epoch or more.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.features import write_samples
from benchmarks.measure import Figure, Options, say
from loopback import BUCKET, environment, object_store
from pipeline.compute import set_threads
from pipeline.samples import Samples, content_digests
from pipeline.store import (
    Plan,
    SampleTable,
    Spool,
    claim_part,
    commit_part,
    finish,
    open_cache,
    write_plan,
)
from pipeline.store.places import Where
from pipeline.stream import Stream
from pipeline.targets import FeatureSpec, TargetSpec, encode, target_fields

COMMAND = "scripts/bench objects"
WAIT_BAR, SPOOL_BAR, NEAR_BAR = 0.05, 1.0, 1.5
WIDTH, BATCH, PART_ROWS, PARTS, QUICK_PARTS = 8192, 64, 128, 64, 24
WINDOW = 8
SPEC = FeatureSpec("hidden", "float16", (WIDTH,), "rows")
KEPT = TargetSpec("top_k", 10, 4)


def run(options: Options) -> list[Figure]:
    """Stream an epoch from the store, round after round, each with an empty spool."""
    set_threads(1)
    parts = QUICK_PARTS if options.quick else PARTS
    with tempfile.TemporaryDirectory(prefix="bench-") as name, object_store() as port:
        os.environ.update(environment(port))
        folder, url = Path(name), f"s3://{BUCKET}/bench"
        say(f"objects: writing {parts} parts")
        samples = write_samples(folder / "samples", parts * PART_ROWS)
        write_cache(url, samples)
        size = open_cache(url).manifest["size_bytes"]
        bound = size // 2
        step = make_step()
        near = folder / "cache"
        write_cache(near, samples)
        say("objects: streaming")
        rounds, beside = [], []
        for number in range(options.rounds):
            rounds.append(epoch(url, samples, Spool(folder / f"spool{number}", bound), step))
            beside.append(epoch(near, samples, Spool(folder / "unused", bound), step))
    waits = [each.waited_s / each.total_s for each in rounds]
    ratios = [far.waited_s / near.waited_s for far, near in zip(rounds, beside, strict=True)]
    steps_ms = [1000 * (each.total_s - each.waited_s) / each.steps for each in rounds]
    rate = BATCH * SPEC.fields[0].entry_bytes / (median(steps_ms) / 1000)
    note = f"steps of {min(steps_ms):.0f} to {max(steps_ms):.0f} ms, {rate / 1e6:.0f} MB/s"
    what = f"waiting for data of {size / 1e6:.0f} MB in an object store / all time"
    return [
        Figure(what, waits, "", WAIT_BAR, COMMAND, note),
        Figure("waiting for it / for the same data in a folder", ratios, "", NEAR_BAR, COMMAND),
        Figure(
            "the spool at its fullest / its bound",
            [each.spool_bytes / bound for each in rounds],
            "",
            SPOOL_BAR,
            COMMAND,
        ),
    ]


def write_cache(where: Where, samples: Samples) -> None:
    """Put a cache of random features straight into a place."""
    plan = Plan(
        rows=len(samples),
        rows_per_part=PART_ROWS,
        backend="zarr",
        compression="none",
        fields=(*target_fields(KEPT), *SPEC.fields),
        settings={},
        about={"targets": KEPT.to_json(), "features": [SPEC.to_json()]},
    )
    write_plan(where, plan)
    generator = np.random.Generator(np.random.Philox(0))
    for part in range(plan.part_count):
        read = samples.read(plan.part_range(part))
        count = len(read.ids)
        table = SampleTable(
            ids=read.ids,
            digests=content_digests(read.inputs),
            views=np.zeros(count, np.int32),
            labels=read.labels,
            positions=np.ones(count, np.int32),
        )
        logits = torch.from_numpy(generator.standard_normal((count, KEPT.class_count), np.float32))
        hidden = generator.standard_normal((count, WIDTH), np.float32).astype(np.float16)
        with claim_part(where, part):
            arrays = encode(KEPT, logits) | {SPEC.fields[0].name: hidden}
            commit_part(where, plan, part, table, arrays, {})
    finish(where, plan)


def make_step() -> torch.nn.Module:
    """Make what a student costs: some 50 ms a step on one thread."""
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 1536), torch.nn.ReLU(), torch.nn.Linear(1536, 10)
    )


@dataclass(frozen=True)
class Epoch:
    """How an epoch went, from its second batch on, and how full its spool ever was."""

    waited_s: float
    total_s: float
    steps: int
    spool_bytes: int


def epoch(where: Where, samples: Samples, spool: Spool, student: torch.nn.Module) -> Epoch:
    """Take an epoch's steps."""
    stream = Stream(
        samples,
        open_cache(where, spool),
        batch_size=BATCH,
        window_parts=WINDOW,
        features=["hidden"],
    )
    with watch(spool) as peaks:
        batches = iter(stream)
        next(batches)  # the first part is in
        waited, started, steps = 0.0, time.perf_counter(), 0
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            loss: torch.Tensor = student(batch.features["hidden"].float()).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            steps += 1
        total = time.perf_counter() - started
    return Epoch(waited, total, steps, max(peaks))


@contextmanager
def watch(spool: Spool) -> Iterator[list[int]]:
    """Look every 10 ms how much lies in the spool."""
    peaks, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            if spool.folder.is_dir():
                with spool.locked():
                    found = [each.stat().st_size for each in os.scandir(spool.folder)]
                peaks.append(sum(found))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()
