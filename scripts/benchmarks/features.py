"""Feature maps streamed shuffled from a cache of 1 GB, against a gather from a raw memory map.

The cache is written without a teacher, and read warm. The baseline, a plain numpy.memmap and
numpy.take into one buffer, has no epochs, samples, ids or checksums: it is the limit.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Figure, Options, interleave, ratios, say
from benchmarks.own_memory import peak_mib, print_peak
from pipeline.compute import keep_freed_memory, set_threads
from pipeline.samples import Samples, content_digests, open_samples
from pipeline.samples.arrays import ArraySamples
from pipeline.store import (
    Plan,
    SampleTable,
    claim_part,
    commit_part,
    finish,
    open_cache,
    write_plan,
)
from pipeline.stream import Stream
from pipeline.targets import FeatureSpec, TargetSpec, encode, target_fields

COMMAND = "scripts/bench features"
BAR, MEMORY_BAR = 2.0, 1.05
MAP, BATCH, PART_ROWS, CLASSES = (64, 14, 14), 256, 2048, 10
ROWS, QUICK_ROWS, FEWER = 20 * PART_ROWS, PART_ROWS, 4
SPEC = FeatureSpec("map", "float16", MAP, "rows")
KEPT = TargetSpec("top_k", CLASSES, 4)


def run(options: Options) -> list[Figure]:
    """Measure speed, and the memory that reading takes of itself."""
    set_threads(options.threads)
    keep_freed_memory()
    rows = QUICK_ROWS if options.quick else ROWS
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_cache(folder / "cache", rows)
        raw = write_raw(folder)
        say("features: speed")
        stream = open_stream(folder / "cache", load_samples)
        _epoch(stream)  # checks every byte once
        seeds = iter(range(10_000))
        rounds = interleave(
            lambda: _epoch(stream), lambda: _gather(raw, rows, next(seeds)), options, turns=3
        )
        size = rows * SPEC.fields[0].entry_bytes
        fastest = min(ours for pairs in rounds for ours, _ in pairs)
        speed = Figure(
            f"an epoch of feature maps of {size / 1e9:.2f} GB, shuffled / raw memory map",
            ratios(rounds),
            "x",
            BAR,
            COMMAND,
            f"at best {size / fastest / 1e6:,.0f} MB/s; entries of "
            f"{SPEC.fields[0].entry_bytes:,} bytes, batches of {BATCH}",
        )
        if options.quick:
            return [speed]
        say("features: memory")
        write_cache(folder / "fewer", rows // FEWER)
        peaks = interleave(
            lambda: peak_mib("features", str(folder / "cache")),
            lambda: peak_mib("features", str(folder / "fewer")),
            options,
        )
        memory = Figure(
            f"the same, memory of its own, {size / 1e9:.2f} GB / {size / FEWER / 1e9:.2f} GB",
            ratios(peaks),
            "x",
            MEMORY_BAR,
            COMMAND,
            "anonymous memory; mapped files are the system's cache, which it takes back",
        )
        return [speed, memory]


def write_cache(folder: Path, rows: int) -> None:
    """Make a cache whose maps are random and differ from part to part."""
    plan = Plan(
        rows=rows,
        rows_per_part=PART_ROWS,
        backend="zarr",
        compression="none",
        fields=(*target_fields(KEPT), *SPEC.fields),
        settings={},
        about={"targets": KEPT.to_json(), "features": [SPEC.to_json()]},
    )
    write_plan(folder, plan)
    samples = write_samples(folder.with_name(f"{folder.name}-samples"), rows)
    generator = np.random.Generator(np.random.Philox(0))
    maps = generator.standard_normal((PART_ROWS, *MAP), np.float32).astype(np.float16)
    for part in range(plan.part_count):
        within = plan.part_range(part)
        read = samples.read(within)
        table = SampleTable(
            ids=read.ids,
            digests=content_digests(read.inputs),
            views=np.zeros(len(within), np.int32),
            labels=read.labels,
            positions=np.ones(len(within), np.int32),
        )
        maps[:, 0, 0, 0] = part
        logits = torch.from_numpy(generator.standard_normal((len(within), CLASSES), np.float32))
        with claim_part(folder, part):
            arrays = encode(KEPT, logits) | {SPEC.fields[0].name: maps[: len(within)]}
            commit_part(folder, plan, part, table, arrays, {})
    finish(folder, plan)


def write_raw(folder: Path) -> Path:
    """Put the chunks of the cache into one file."""
    with (folder / "raw.bin").open("wb") as raw:
        for chunk in sorted((folder / "cache/targets").glob("*.zarr/feature_map/c.*")):
            raw.write(chunk.read_bytes())
    return folder / "raw.bin"


def write_samples(folder: Path, rows: int) -> Samples:
    """Write samples of four numbers, so that reading them hides nothing."""
    folder.mkdir()
    np.save(folder / "inputs.npy", np.arange(4 * rows, dtype=np.float32).reshape(rows, 4))
    np.save(folder / "ids.npy", np.array([f"s{row}" for row in range(rows)]))
    return read_samples(folder)


def read_samples(folder: Path) -> Samples:
    """Open samples that lie in files, so that they take no memory."""
    return open_samples("arrays", base=folder, inputs="inputs.npy", ids="ids.npy")


def load_samples(folder: Path) -> Samples:
    """Open the same in memory, so that they take no time."""
    inputs, ids = np.load(folder / "inputs.npy"), np.load(folder / "ids.npy")
    return ArraySamples("samples", None, inputs, np.zeros(len(ids), np.int64), ids)


def open_stream(folder: Path, open_them: Callable[[Path], Samples]) -> Stream:
    """Stream the maps alone, shuffled."""
    samples, cache = open_them(folder.with_name(f"{folder.name}-samples")), open_cache(folder)
    return Stream(samples, cache, batch_size=BATCH, features=[SPEC.name], soft=False)


def _epoch(stream: Stream) -> float:
    started = time.perf_counter()
    seen = sum(float(batch.features[SPEC.name][0, 0, 0, 0]) for batch in stream)
    assert seen >= 0
    return time.perf_counter() - started


def _gather(raw: Path, rows: int, seed: int) -> float:
    maps = np.memmap(raw, np.float16, "r", shape=(rows, *MAP))
    made = np.empty((BATCH, *MAP), np.float16)
    started = time.perf_counter()
    for chosen in _batches(rows, seed):
        np.take(maps, chosen, axis=0, out=made[: len(chosen)], mode="clip")
        float(made[0, 0, 0, 0])
    return time.perf_counter() - started


def _batches(rows: int, seed: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng(seed).permutation(rows)
    for start in range(0, rows, BATCH):
        yield order[start : start + BATCH]


def tell_peak(folder: str) -> None:
    """Read two epochs, and print the peak."""
    stream = open_stream(Path(folder), read_samples)
    print_peak(batch for _ in range(2) for batch in stream)
