"""An optimiser step from a cache against the same step on hard labels from the same dataset.

Both go through the one training loop with a stream, in the same order, from equal weights. Windows
are small, so that parts are read again in every epoch, as in a cache that does not fit one window.
"""

import time
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
from pipeline.training.loop import Learner, Observers, Progress, Schedule, train
from pipeline.training.match import weigh
from pipeline.training.optimizer import make_optimizer

COMMAND = "scripts/bench train-student"
BAR = 1.05
ROWS, QUICK_ROWS = 20_480, 300
WINDOW_PARTS = 2
# Of a round, which is an epoch: five steps each.
TURNS = 32
# Widths; the notes below the table say how long a step takes.
STUDENT, SMALL, TINY = 48, 32, 4
LEARNING_RATE = 1e-4

LZ4 = "cache.compression='lz4'"
ALL = "targets.selection={kind='all'}"
# name -> the cache's settings, and the width of the student
VARIANTS: dict[str, tuple[list[str], int]] = {
    "zarr, top-4 with tail": ([], STUDENT),
    "zarr, all 10 classes": ([ALL], STUDENT),
    "zarr with lz4, top-4 with tail": ([LZ4], STUDENT),
    "zarr with lz4, all 10 classes": ([LZ4, ALL], STUDENT),
    "small student, top-4 with tail": ([], SMALL),
    "small student, all 10 classes": ([ALL], SMALL),
    "tiny student, top-4 with tail": ([], TINY),
    "tiny student, all 10 classes": ([ALL], TINY),
}
HARD = [{"kind": "hard_labels", "weight": 1.0}]
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
    torch.manual_seed(0)  # two variants may share a cache, so the teacher must be the same
    overrides, width = VARIANTS[name]
    cache = path.parent / f"cache-{'-'.join(overrides)}".replace("'", "")
    recipe = load_recipe(path, [*overrides, f"cache.path='{cache}'"])
    stages.cache_teacher.run(recipe, quiet=True)
    ours = _trainee(recipe, width, from_cache=True)
    baseline = _trainee(recipe, width, from_cache=False)
    turns = min(TURNS, len(ours.stream))
    steps = len(ours.stream) // turns
    rounds = interleave(
        lambda: ours.step_for(steps), lambda: baseline.step_for(steps), options, turns
    )
    step_ms = 1000 * median(each[1] for pairs in rounds for each in pairs) / steps
    return Figure(
        f"train-student step / hard-label step: {name}",
        ratios(rounds),
        "x",
        BAR,
        COMMAND,
        f"hard-label step {step_ms:.1f} ms at batch {STUDENT_BATCH}, {steps * turns} steps a round",
    )


def _trainee(recipe: Recipe, width: int, *, from_cache: bool) -> Trainee:
    assert recipe.student
    assert recipe.training
    losses = [loss.model_dump() for loss in recipe.losses]
    cache = open_cache(recipe.locate(recipe.cache.path)) if from_cache and recipe.cache else None
    stream = Stream(
        open_data(recipe, recipe.training.data),
        cache,
        batch_size=recipe.training.batch_size,
        window_parts=WINDOW_PARTS,
    )
    torch.manual_seed(0)
    model = recipe.student.model.model_copy(update={"arguments": {"width": width}})
    network = open_model(recipe, model, where="student.model")
    accelerator = make_accelerator("float32", device=torch.device("cpu"))
    optimizer = make_optimizer(
        "adamw", network.parameters(), learning_rate=LEARNING_RATE, weight_decay=0.01
    )
    network, optimizer = accelerator.prepare(network, optimizer)
    chosen = weigh(losses if from_cache else HARD)
    return Trainee(Learner(accelerator, network, optimizer, chosen), stream)


def _schedule(steps: int) -> Schedule:
    never = steps + 1
    return Schedule(
        steps=steps,
        learning_rate=LEARNING_RATE,
        evaluate_every=never,
        checkpoint_every=never,
        log_every=never,
    )
