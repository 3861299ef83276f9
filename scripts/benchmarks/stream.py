"""Soft targets of a language model, streamed shuffled into tensors, against what a disk can do.

Warm, the limit is a gather of whole rows from raw memory maps into one set of buffers, which has
no epochs, samples, ids or checksums; cold, it is reading the same files one after the other.
"""

import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import lm_targets
from benchmarks.measure import Figure, Options, interleave, ratios, say
from benchmarks.own_memory import peak_mib, print_peak
from pipeline.compute import keep_freed_memory, set_threads
from pipeline.store import open_cache
from pipeline.stream import Stream

COMMAND = "scripts/bench stream"
# Times as long as the limit takes.
BARS = {"none": 1 / 0.7, "lz4": 1 / 0.2}
COLD_BAR, FIRST_BAR_S, MEMORY_BAR = 1 / 0.8, 0.5, 1.05
# Of a cache of 1.1 GB, and of one of a tenth.
LARGE_ROWS, SMALL_ROWS = 7_424, 742
BATCH = 32
READ_BYTES = 2**24


def run(options: Options) -> list[Figure]:
    """Measure both ways in which a cache can lie."""
    set_threads(1)
    keep_freed_memory()
    rows = lm_targets.QUICK_ROWS if options.quick else lm_targets.ROWS
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        say("stream: writing")
        for compression in BARS:
            lm_targets.write(folder / compression, rows, compression=compression)
        lm_targets.write_raw(folder / "none", folder / "raw")
        figures = [
            *(_warm(folder, compression, rows, options) for compression in BARS),
            _cold(folder / "none", rows, options),
        ]
        return figures if options.quick else [*figures, *_large(folder, options)]


def _warm(folder: Path, compression: str, rows: int, options: Options) -> Figure:
    say(f"stream: {compression}, warm")
    stream = open_stream(folder / compression, rows)
    checking_s, seeds = epoch(stream), iter(range(10_000))
    rounds = interleave(
        lambda: epoch(stream), lambda: _gather(folder / "raw", rows, next(seeds)), options, turns=3
    )
    size = rows * lm_targets.POSITIONS * lm_targets.POSITION_BYTES
    fastest = min(ours for pairs in rounds for ours, _ in pairs)
    note = (
        f"at best {size / fastest / 1e6:,.0f} MB/s; the first epoch, in which every byte is "
        f"checked, takes {checking_s:.2f} s"
    )
    what = f"an epoch of {size / 1e6:.0f} MB of top-64 targets, '{compression}' / raw memory maps"
    return Figure(what, ratios(rounds), "x", BARS[compression], COMMAND, note)


def open_stream(cache: Path, rows: int) -> Stream:
    return Stream(lm_targets.samples_of(rows), open_cache(cache), batch_size=BATCH)


def epoch(stream: Stream) -> float:
    started = time.perf_counter()
    for batch in stream:
        assert batch.stored is not None
    return time.perf_counter() - started


def _gather(raw: Path, rows: int, seed: int) -> float:
    started = time.perf_counter()
    for made in lm_targets.gather_raw(raw, rows, BATCH, seed):
        for array in made.values():
            torch.from_numpy(array)
    return time.perf_counter() - started


def _cold(cache: Path, rows: int, options: Options) -> Figure:
    """Measure with nothing of the cache in the system's memory."""
    say("stream: cold")
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    needed = [path for path in files if path.parent.name in lm_targets.READ]

    def ours() -> float:
        _forget(files)
        started = time.perf_counter()
        epoch(open_stream(cache, rows))
        return time.perf_counter() - started

    rounds = interleave(ours, lambda: _read(needed), options)
    what = "the same, 'none', cold, with opening and checking / reading the files in a row"
    return Figure(what, ratios(rounds), "x", COLD_BAR, COMMAND)


def _large(folder: Path, options: Options) -> list[Figure]:
    """Measure what must not grow with a cache: the wait for its first batch, and memory."""
    say("stream: 1.1 GB")
    large, small = folder / "large", folder / "small"
    lm_targets.write(large, LARGE_ROWS)
    lm_targets.write(small, SMALL_ROWS)
    size = LARGE_ROWS * lm_targets.POSITIONS * lm_targets.POSITION_BYTES
    firsts = [_first(large, LARGE_ROWS) for _ in range(options.rounds)]
    peaks = interleave(
        lambda: peak_mib("stream", str(large), LARGE_ROWS),
        lambda: peak_mib("stream", str(small), SMALL_ROWS),
        options,
    )
    what = f"the first batch of {size / 1e9:.1f} GB of them, warm, with opening"
    return [
        Figure(what, firsts, "s", FIRST_BAR_S, COMMAND),
        Figure("memory of its own, 10x the rows / 1x", ratios(peaks), "x", MEMORY_BAR, COMMAND),
    ]


def tell_peak(cache: str, rows: int) -> None:
    """Read an epoch, and print the peak."""
    print_peak(open_stream(Path(cache), rows))


def _first(cache: Path, rows: int) -> float:
    started = time.perf_counter()
    next(iter(open_stream(cache, rows)))
    return time.perf_counter() - started


def _read(files: list[Path]) -> float:
    _forget(files)
    started, buffer = time.perf_counter(), bytearray(READ_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - started


def _forget(files: list[Path]) -> None:
    """Let the system drop files out of its memory, once they are on the disk."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
