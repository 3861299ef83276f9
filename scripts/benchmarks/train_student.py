"""An optimiser step from a cache against the same step on hard labels from the same dataset.

Both go through the one training loop with a stream, in the same order, from equal weights. Windows
are small, so that parts are read again in every epoch, as in a cache that does not fit one window;
but for one variant, of which the window is chosen as it is where nobody says, and holds all rows.
What a student waits for is the next batch, of samples and targets as they lie in the cache.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median

import torch

import stages.cache_teacher
from benchmarks.measure import Figure, Options, interleave, ratios_of_rounds, say
from benchmarks.setting import setting
from benchmarks.text_setting import text_setting
from pipeline.compute import make_accelerator, pick_device
from pipeline.estimate.clock import wait_for
from pipeline.experiment import open_data, open_model
from pipeline.recipe import Recipe, load_recipe
from pipeline.store import open_cache
from pipeline.stream import Batch, Stream
from pipeline.training.loop import Learner, Observers, Progress, Schedule, train
from pipeline.training.match import weigh
from pipeline.training.optimizer import make_optimizer

COMMAND = "scripts/bench train-student"
BAR, WAITING_BAR = 1.05, 0.01
ROWS, QUICK_ROWS = 20_480, 300
TEXT_ROWS, QUICK_TEXT_ROWS = 640, 16
WINDOW_PARTS = 2
# Of a round, which is an epoch: five steps each.
TURNS = 32
# Widths; the notes below the table say how long a step takes.
STUDENT, SMALL, TINY = 48, 32, 20
LEARNING_RATE = 1e-4

LZ4 = "cache.compression='lz4'"
ALL = "targets.selection={kind='all'}"
ONE_WINDOW = "tiny student, top-4 with tail, one window"
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
    ONE_WINDOW: ([], TINY),
}
# Of a language model with as many classes as words: the cache's settings, and the bar. No student
# on hard labels has to look at a tail's shape over all classes.
TEXT_VARIANTS: dict[str, tuple[list[str], float | None]] = {
    "language student, top-32 with tail": ([], BAR),
    "the same, low-rank tail": (["targets.tail={kind='low_rank', rank=16}"], None),
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


class TimedStream(Stream):
    """A stream that knows how long it was waited for, and goes on where the last turn left it."""

    waited_s = 0.0
    going: Generator[Batch] | None = None

    def forever(self) -> Generator[Batch]:
        """Go through the epochs, and time what comes between batches."""
        # A turn of a few steps must not pay for the beginning of an epoch.
        self.going = self.going or super().forever()
        while True:
            started = time.perf_counter()
            batch = next(self.going)
            self.waited_s += time.perf_counter() - started
            yield batch


@dataclass
class Trainee:
    """A student on its way through a stream, turn by turn."""

    learner: Learner
    stream: "TimedStream"

    def step_for(self, steps: int) -> float:
        """Take steps and tell the seconds."""
        started = time.perf_counter()
        train(self.learner, self.stream, schedule=_schedule(steps), start=START, observers=SILENT)
        wait_for(self.learner.accelerator.device)
        return time.perf_counter() - started


START = Progress()


def run(options: Options) -> list[Figure]:
    """Measure every variant."""
    torch.set_num_threads(options.threads)
    with setting(QUICK_ROWS if options.quick else ROWS) as recipe:
        images = [
            figure
            for name, (overrides, width) in VARIANTS.items()
            for figure in measure(recipe, name, overrides, {"width": width}, options)
        ]
    with text_setting(QUICK_TEXT_ROWS if options.quick else TEXT_ROWS) as recipe:
        texts = [
            figure
            for name, (overrides, bar) in TEXT_VARIANTS.items()
            for figure in measure(recipe, name, overrides, None, options, bar=bar)
        ]
    return images + texts


def measure(
    path: Path,
    name: str,
    overrides: list[str],
    arguments: dict[str, int] | None,
    options: Options,
    command: str = COMMAND,
    *,
    bar: float | None = BAR,
) -> list[Figure]:
    """Make a recipe's cache, and measure a student's step from it, and what it waits for."""
    say(f"train-student: {name}")
    torch.manual_seed(0)  # two variants may share a cache, so the teacher must be the same
    cache = path.parent / f"cache-{sha256(repr(overrides).encode()).hexdigest()[:16]}"
    recipe = load_recipe(path, [*overrides, f"cache.path='{cache}'"])
    stages.cache_teacher.run(recipe, quiet=True)
    window_parts = None if name == ONE_WINDOW else WINDOW_PARTS
    ours, baseline = (
        _trainee(recipe, arguments, window_parts, from_cache=each) for each in (True, False)
    )
    turns = min(TURNS, len(ours.stream))
    steps = len(ours.stream) // turns
    waited = list[float]()

    def step() -> float:
        ours.stream.waited_s = 0.0
        seconds = ours.step_for(steps)
        waited.append(ours.stream.waited_s)
        return seconds

    rounds = interleave(step, lambda: baseline.step_for(steps), options, turns)
    step_ms = 1000 * median(each[1] for pairs in rounds for each in pairs) / steps
    note = f"hard-label step {step_ms:.1f} ms, {steps * turns} steps a round"
    del waited[: len(waited) - turns * len(rounds)]  # a round for warmth
    shares = [
        sum(waited[number * turns : (number + 1) * turns]) / sum(each for each, _ in pairs)
        for number, pairs in enumerate(rounds)
    ]
    what = f"train-student step / hard-label step: {name}"
    return [
        Figure(what, ratios_of_rounds(rounds), "x", bar, command, note),
        Figure(f"the same, waiting for batches: {name}", shares, "of all", WAITING_BAR, command),
    ]


def _trainee(
    recipe: Recipe, arguments: dict[str, int] | None, window_parts: int | None, *, from_cache: bool
) -> Trainee:
    assert recipe.student
    assert recipe.training
    losses = [loss.model_dump() for loss in recipe.losses]
    cache = open_cache(recipe.locate(recipe.cache.path)) if from_cache and recipe.cache else None
    stream = TimedStream(
        open_data(recipe, recipe.training.data),
        cache,
        batch_size=recipe.training.batch_size,
        window_parts=window_parts,
    )
    torch.manual_seed(0)
    model = recipe.student.model
    if arguments:
        model = model.model_copy(update={"arguments": arguments})
    network = open_model(recipe, model, where="student.model")
    accelerator = make_accelerator(
        recipe.training.precision, device=pick_device(recipe.training.device)
    )
    optimizer = make_optimizer(
        "adamw", network.parameters(), learning_rate=LEARNING_RATE, weight_decay=0.01
    )
    network = accelerator.prepare(network)
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
