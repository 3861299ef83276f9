"""Three timed steps of a throwaway student, after one of warmth, on a scratch cache.

It is opened and stepped as `train-student` does it; no folder of a run is looked at or begun.
"""

import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from pipeline.compute import guard_memory, make_accelerator
from pipeline.errors import PipelineError
from pipeline.estimate.clock import wait_for
from pipeline.estimate.costs import StudentSeen
from pipeline.experiment import Setup, open_student
from pipeline.recipe import Recipe
from pipeline.training.loop import Learner, Observers, Progress, Schedule, train
from pipeline.training.match import weigh
from pipeline.training.optimizer import make_optimizer

TIMED_STEPS = 3
NEVER = 2**31


def try_student(
    recipe: Recipe, scratch: Path, *, rows: int, samples: int, fetch_s: float
) -> StudentSeen | str:
    """Time the student of a recipe on a cache of `rows` rows; or say why it is not.

    `samples` is what an epoch of the real data has, `fetch_s` what reading a row's targets takes.
    """
    if reason := _why_not(recipe):
        return reason
    assert recipe.training
    try:
        setup = open_student(_on_scratch(recipe, scratch), scratch / "run", quiet=True)
        seconds = _step(setup)
    except PipelineError as error:  # the cache can be made all the same; this is said beside it
        return f"the student could not be tried: {error}"
    a_step = step_rows(rows, recipe.training.batch_size, recipe.training.accumulate, len(seconds))
    training = recipe.training
    epochs = training.epochs or (
        (training.steps or 1) * training.batch_size * training.accumulate / samples
    )
    return StudentSeen(sum(seconds[1:]) / sum(a_step[1:]), fetch_s, float(epochs))


def step_rows(rows: int, batch_size: int, accumulate: int, steps: int) -> list[int]:
    """Count the rows of the first steps; none spans two epochs, so the last of one may be short."""
    largest = batch_size * accumulate
    an_epoch = [min(largest, rows - start) for start in range(0, rows, largest)]
    return [an_epoch[step % len(an_epoch)] for step in range(steps)]


def _why_not(recipe: Recipe) -> str | None:
    training, cache = recipe.training, recipe.cache
    if not (recipe.student and recipe.losses and training and cache):
        return "the recipe has no [student], [[losses]] and [training]"
    if training.sources or training.teachers:
        return "the student learns from several caches"
    if training.data != cache.data:
        return f"the student learns from data.{training.data}, the cache is of data.{cache.data}"
    if all(loss.kind in ("hard_labels", "pseudo_labels") for loss in recipe.losses):
        return "no loss of the student reads the cache"
    if any(getattr(loss, "first_steps", None) for loss in recipe.losses):
        return "the student's first steps are others than its later ones"
    return None


def _on_scratch(recipe: Recipe, scratch: Path) -> Recipe:
    """Let the student learn from the scratch cache, which is of one view, and be judged by none."""
    assert recipe.cache
    return recipe.model_copy(
        update={
            "cache": recipe.cache.model_copy(update={"path": str(scratch.absolute())}),
            "views": recipe.views and recipe.views.model_copy(update={"count": 1}),
            "validation": None,
            "test": None,
        }
    )


def _step(setup: Setup) -> list[float]:
    """Take four steps; gives the seconds of each."""
    training = setup.recipe.training
    assert training
    accelerator = make_accelerator(training.precision, device=setup.device)
    optimizer = make_optimizer(
        training.optimizer,
        setup.network.parameters(),
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
    )
    network = accelerator.prepare(setup.network)
    losses = weigh([loss.model_dump() for loss in setup.recipe.losses])
    schedule = Schedule(
        steps=TIMED_STEPS + 1,
        learning_rate=training.learning_rate,
        evaluate_every=NEVER,
        checkpoint_every=NEVER,
        log_every=NEVER,
        accumulate=training.accumulate,
        clip_norm=training.clip_norm,
    )
    ends = [time.perf_counter()]
    with guard_memory(training.rows_a_batch, "training"):
        train(
            Learner(accelerator, network, optimizer, losses, setup.taps),
            setup.stream,
            schedule=schedule,
            start=Progress(),
            observers=_only_clock(partial(_look, ends, setup.device)),
        )
    return [after - before for before, after in pairwise(ends)]


def _look(ends: list[float], device: torch.device, *_: Any) -> None:
    wait_for(device)
    ends.append(time.perf_counter())


def _only_clock(advance: Any) -> Observers:
    """Observe nothing but the ends of steps, and keep nothing."""

    def ignore(*_: Any) -> None:
        """Keep nothing."""

    return Observers(
        log=ignore,
        evaluate=None,
        better=lambda new, best: True,
        save_checkpoint=ignore,
        save_best=ignore,
        advance=advance,
    )
