"""Peak memory of both stages over 10 times the rows, against the same over one time.

Each value is the ru_maxrss of a fresh process that runs the very command. The networks are small,
so that their own memory hides nothing.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, Options, interleave, ratios, say
from benchmarks.setting import setting

COMMAND = "scripts/bench memory"
BAR = 1.05
ROWS, QUICK_ROWS = 20_480, 100
FACTOR = 10
KIB_A_MIB = 1024
SMALL = ["teacher.model.arguments={width=2}", "student.model.arguments={width=4}"]


def run(options: Options) -> list[Figure]:
    """Measure both stages."""
    rows = QUICK_ROWS if options.quick else ROWS
    with setting(rows) as one, setting(FACTOR * rows) as ten:
        stages = list(STAGES)[:1] if options.quick else STAGES
        return [_measure(stage, one, ten, rows, options) for stage in stages]


def _measure(stage: str, one: Path, ten: Path, rows: int, options: Options) -> Figure:
    say(f"memory: {stage}")
    numbers = iter(range(10_000))
    rounds = interleave(
        lambda: _peak_mib(stage, ten, next(numbers), options),
        lambda: _peak_mib(stage, one, next(numbers), options),
        options,
    )
    big, small = (median(peaks) for peaks in zip(*chain(*rounds), strict=True))
    return Figure(
        f"{stage} peak memory, {FACTOR}x the rows / 1x",
        ratios(rounds),
        "x",
        BAR,
        COMMAND,
        f"{small:.0f} MiB for {rows} rows, {big:.0f} MiB for {FACTOR * rows}",
    )


def _caching(number: int) -> list[str]:
    return [f"cache.path='cache-{number}'"]


def _training(number: int) -> list[str]:
    return [f"run.path='run-{number}'"]


# What differs from one run to the next: nothing may be there already.
STAGES: dict[str, Callable[[int], list[str]]] = {
    "cache-teacher": _caching,
    "train-student": _training,
}


def _peak_mib(stage: str, recipe: Path, number: int, options: Options) -> float:
    if stage == "train-student" and not (recipe.parent / "cache").exists():
        run_stage("cache-teacher", recipe, SMALL)
    threads = [f"{table}.threads={options.threads}" for table in ("teacher", "training")]
    return run_stage(stage, recipe, [*SMALL, *threads, *STAGES[stage](number)]) / KIB_A_MIB


def run_stage(stage: str, recipe: Path, overrides: list[str]) -> int:
    """Run a stage to its end and tell its peak in KiB.

    This process must stay small: a child's ru_maxrss begins with what its parent held.
    """
    assert "torch" not in sys.modules
    settings = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "pipeline", stage, str(recipe), "--quiet", *settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss
