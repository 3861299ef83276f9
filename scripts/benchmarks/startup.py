"""How long `pipeline --help` takes: whole processes, from outside. The one absolute figure."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import Figure, Options, say

COMMAND = "scripts/bench startup"
BAR_S = 0.2
STARTS, QUICK_STARTS = 10, 2


def run(options: Options) -> list[Figure]:
    """Measure it some times, after one that warms the disk's cache."""
    say("startup: pipeline --help")
    _start_s()
    values = [_start_s() for _ in range(QUICK_STARTS if options.quick else STARTS)]
    return [Figure("pipeline --help", values, "s", BAR_S, COMMAND, f"{len(values)} processes")]


def _start_s() -> float:
    command = [str(Path(sys.executable).with_name("pipeline")), "--help"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
