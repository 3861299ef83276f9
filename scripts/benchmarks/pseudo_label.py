"""Labelling a corpus of ten million rows: rows a second, and memory against a tenth of the rows.

The caches are written without a teacher, in the real format. Each value is of a fresh process that
runs the very command.
"""

import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, Options, interleave, ratios, say
from benchmarks.memory import KIB_A_MIB, run_stage

COMMAND = "scripts/bench pseudo-label"
BAR, MOST_MIB = 1.05, 1024
ROWS, QUICK_ROWS, FACTOR = 10_000_000, 20_000, 10
RECIPE = """
name = "bench"
[pseudo_labels]
path = "labels"
cache = "{rows}"
labelled_cache = "labelled"
rule = {{ kind = "precision", at_least = 0.9 }}
balanced = true
threads = {threads}
"""


def run(options: Options) -> list[Figure]:
    """Measure both sizes, turn by turn."""
    rows = QUICK_ROWS if options.quick else ROWS
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        for count in (rows, rows // FACTOR):
            say(f"pseudo-label: writing {count:,} rows")
            _write(folder / str(count), count, is_labelled=False)
        _write(folder / "labelled", 5_000, is_labelled=True)
        numbers, elapsed = iter(range(10_000)), list[float]()

        def peak(count: int) -> float:
            started = time.perf_counter()
            recipe = folder / "bench.toml"
            recipe.write_text(RECIPE.format(rows=count, threads=options.threads))
            found = run_stage(
                "pseudo-label", recipe, [f"pseudo_labels.path='labels-{next(numbers)}'"]
            )
            if count == rows:
                elapsed.append(time.perf_counter() - started)
            return found / KIB_A_MIB

        rounds = interleave(lambda: peak(rows), lambda: peak(rows // FACTOR), options)
        big, small = (median(peaks) for peaks in zip(*chain(*rounds), strict=True))
        return [
            Figure(
                f"pseudo-label peak memory, {rows:,} rows / a tenth",
                ratios(rounds),
                "x",
                BAR,
                COMMAND,
                f"{small:.0f} and {big:.0f} MiB; {rows / median(elapsed):,.0f} rows a second, "
                "start and calibration included",
            ),
            Figure(
                f"the same, {rows:,} rows",
                [peaks[0] for pairs in rounds for peaks in pairs],
                "MiB",
                MOST_MIB,
                COMMAND,
            ),
        ]


def _write(folder: Path, rows: int, *, is_labelled: bool) -> None:
    """Write a cache in a process of its own: what measures must stay small."""
    code = f"from benchmarks.corpus import write; write({str(folder)!r}, {rows}, {is_labelled})"
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"], check=True
    )
