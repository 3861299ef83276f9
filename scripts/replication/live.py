"""A teacher that answers while its student trains: what a cache is measured against.

Order, batches, student, losses and loop are those of every run; only where the targets come from
differs, and no cache is opened.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.compute import make_accelerator, pick_device, set_threads
from pipeline.experiment import open_data, open_model, open_viewed
from pipeline.models import Network
from pipeline.progress import progress
from pipeline.recipe import Recipe
from pipeline.samples import Samples
from pipeline.stream import Batch, Stream
from pipeline.targets import Targets
from pipeline.training.evaluation import better_by, evaluate
from pipeline.training.loop import Learner, Metrics, Observers, Progress, Schedule, train
from pipeline.training.match import weigh
from pipeline.training.optimizer import make_optimizer


class LiveStream(Stream):
    """Samples in the order of a stream from a cache, with the teacher asked anew about each batch.

    A cache of the default part size has the order of the dataset itself.
    """

    def __init__(self, samples: Samples, teacher: Network, **options: Any) -> None:
        super().__init__(samples, **options)
        self.teacher = teacher.eval()

    def forever(self) -> Generator[Batch]:
        for batch in super().forever():
            yield replace(batch, made=self._ask(batch.inputs))

    @torch.no_grad()
    def _ask(self, inputs: Tensor) -> Targets:
        """Keep every class in float32. Shapes: inputs (B, ...)."""
        device = next(self.teacher.parameters()).device
        logits = self.teacher(inputs.to(device)).logits.cpu()  # (B, C)
        return Targets(logits.shape[1], logits - logits.amax(1, keepdim=True))


@dataclass(frozen=True)
class LiveRun:
    """A line of metrics for every step, and the test set's metrics at the end."""

    lines: list[Mapping[str, Any]]
    test: Metrics


def train_live(recipe: Recipe, *, quiet: bool = False) -> LiveRun:
    """Train a recipe's student, as `train-student` does, with its teacher in the loop."""
    training = recipe.training
    assert recipe.teacher
    assert recipe.student
    assert training
    if training.threads:
        set_threads(training.threads)
    device = pick_device(training.device)
    teacher = open_model(recipe, recipe.teacher.model, where="teacher.model").to(device)
    torch.manual_seed(training.seed)
    network = open_model(recipe, recipe.student.model, where="student.model").to(device)
    stream = LiveStream(
        open_viewed(recipe, training.data),
        teacher,
        batch_size=training.batch_size,
        seed=training.seed,
        window_parts=training.window_parts,
    )
    schedule = _schedule(recipe, len(stream))
    learner = _learner(recipe, network, device)
    lines: list[Mapping[str, Any]] = []
    torch.manual_seed(training.seed)
    with progress("live teacher", total=schedule.steps, unit="steps", quiet=quiet) as advance:
        observers = Observers(
            log=lines.append,
            evaluate=None,
            better=better_by("accuracy"),
            save_checkpoint=lambda progress: None,
            save_best=lambda metrics: None,
            advance=advance,
        )
        train(learner, stream, schedule=schedule, start=Progress(), observers=observers)
    return LiveRun(lines, _test(recipe, network, device))


def _schedule(recipe: Recipe, an_epoch: int) -> Schedule:
    training = recipe.training
    assert training
    steps = training.steps or (training.epochs or 1) * an_epoch
    return Schedule(
        steps=steps,
        learning_rate=training.learning_rate,
        evaluate_every=steps,
        checkpoint_every=steps,
        log_every=1,
        kind=training.schedule,
        warmup_steps=training.warmup_steps,
        clip_norm=training.clip_norm,
    )


def _learner(recipe: Recipe, network: Network, device: torch.device) -> Learner:
    training = recipe.training
    assert training
    accelerator = make_accelerator(training.precision, device=device)
    optimizer = make_optimizer(
        training.optimizer,
        network.parameters(),
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
    )
    network = accelerator.prepare(network)
    losses = weigh([loss.model_dump() for loss in recipe.losses])
    return Learner(accelerator, network, optimizer, losses)


def _test(recipe: Recipe, network: Network, device: torch.device) -> Metrics:
    table = recipe.test
    assert table
    samples = open_data(recipe, table.data)
    stream = Stream(samples, batch_size=table.batch_size, seed=None)
    return evaluate(network, stream, device)
