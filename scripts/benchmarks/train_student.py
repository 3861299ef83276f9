"""An optimiser step from a cache against the same step on hard labels from the same dataset.

Both go through the one training loop with a stream, in the same order, from equal weights. Windows
are small, so that parts are read again in every epoch, as in a cache that does not fit one window.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

import stages.cache_teacher
from benchmarks.measure import Figure, Options, interleave, ratios, say
from benchmarks.setting import STUDENT_BATCH, setting
from pipeline.compute import make_accelerator
from pipeline.experiment import open_data, open_model
from pipeline.recipe import Recipe, load_recipe
from pipeline.store import open_cache
from pipeline.stream import Stream
from pipeline.training.loop import Learner, Observers, Progress, Schedule, train, weigh
from pipeline.training.optimizer import make_optimizer

COMMAND = "scripts/bench train-student"
BAR = 1.05
ROWS, QUICK_ROWS = 20_480, 600
WINDOW_PARTS = 2
# A round is an epoch, taken in turns this many times: short turns share the machine's moods.
TURNS = 4
STUDENT, TINY = 24, 4
LEARNING_RATE = 1e-4

LZ4 = "cache.compression='lz4'"
ALL = "targets.selection={kind='all'}"
# name -> the cache's settings, and the width of the student
VARIANTS: dict[str, tuple[list[str], int]] = {
    "zarr, top-4 with tail": ([], STUDENT),
    "zarr, all 10 classes": ([ALL], STUDENT),
    "zarr with lz4, top-4 with tail": ([LZ4], STUDENT),
    "zarr with lz4, all 10 classes": ([LZ4, ALL], STUDENT),
    "tiny student, top-4 with tail": ([], TINY),
    "tiny student, all 10 classes": ([ALL], TINY),
}
SILENT = Observers(
    log=lambda line: None,
    evaluate=None,
    better=lambda new, best: False,
    save_checkpoint=lambda progress: None,
    save_best=lambda metrics: None,
    advance=lambda more, note: None,
)


@dataclass
class Trainee:
    """A student on its way through a stream, turn by turn."""

    learner: Learner
    stream: Stream

    def step_for(self, steps: int) -> float:
        """Take steps and tell the seconds."""
        started = time.perf_counter()
        train(self.learner, self.stream, schedule=_schedule(steps), start=START, observers=SILENT)
        return time.perf_counter() - started


START = Progress()


def run(options: Options) -> list[Figure]:
    """Measure every variant."""
    torch.set_num_threads(options.threads)
    with setting(QUICK_ROWS if options.quick else ROWS) as recipe:
        return [_measure(recipe, name, options) for name in VARIANTS]


def _measure(path: Path, name: str, options: Options) -> Figure:
    say(f"train-student: {name}")
    overrides, width = VARIANTS[name]
    cache = path.parent / f"cache-{'-'.join(overrides)}".replace("'", "")
    recipe = load_recipe(path, [*overrides, f"cache.path='{cache}'"])
    stages.cache_teacher.run(recipe, quiet=True)
    ours = _trainee(recipe, width, from_cache=True)
    baseline = _trainee(recipe, width, from_cache=False)
    steps = len(ours.stream)
    pairs = interleave(*_in_turns(ours, baseline, steps), options.rounds)
    step_ms = 1000 * median(baseline_s for _, baseline_s in pairs) / steps
    return Figure(
        f"train-student step / hard-label step: {name}",
        ratios(pairs),
        "x",
        BAR,
        COMMAND,
        f"hard-label step {step_ms:.1f} ms at batch {STUDENT_BATCH}, {steps} steps a round",
    )
