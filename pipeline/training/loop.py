"""One training loop, for students, baselines and small teachers alike.

It takes a stream, a network and weighted losses, and knows neither recipe nor terminal. Everything
it needs to go on after a stop is in the checkpoint, so a resumed run takes the very same steps. Of
several ranks each runs it on its own rows; steps, means and decisions are those of all.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator

from pipeline.compute import Ranks
from pipeline.errors import PipelineError
from pipeline.models import Network, Tap
from pipeline.stream import Blend, Stream
from pipeline.training.match import (
    AnyBatch,
    Sums,
    WeightedLoss,
    count_positions,
    match,
    relate_batch,
    tell,
)
from pipeline.training.optimizer import SCHEDULES
from pipeline.training.roots import backpropagate, gradient_norms
from pipeline.training.together import add_gradients, share_buffers, trained

Metrics = dict[str, float]


@dataclass(frozen=True)
class Learner:
    """What learns, and from what; the network is already the accelerator's.

    The optimizer is torch's own: what accelerate makes of one looks for other libraries in every
    step, which takes longer than a small student's step of the optimizer. `taps` says by the names
    of losses of features where they read the student.
    """

    accelerator: Accelerator
    network: Network
    optimizer: torch.optim.Optimizer
    losses: Sequence[WeightedLoss]
    taps: Mapping[str, Tap] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)


@dataclass(frozen=True)
class Schedule:
    """When things happen, in optimiser steps, and how large a step is."""

    steps: int
    learning_rate: float
    evaluate_every: int
    checkpoint_every: int
    log_every: int
    kind: str = "constant"
    warmup_steps: int = 0
    accumulate: int = 1
    clip_norm: float | None = None
    patience: int | None = None
    # How often the shares of the losses in the gradient are measured; 0 is never.
    gradients_every: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a run has come; part of its checkpoint."""

    step: int = 0
    best: Metrics = field(default_factory=dict)
    best_step: int = 0
    stale: int = 0
    stream: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Observers:
    """What happens beside the optimisation; each is called by the loop with plain numbers.

    `better(new, best)` compares two evaluations. `evaluate` may be None: then the last step is the
    best.
    """

    log: Callable[[Mapping[str, Any]], None]
    evaluate: Callable[[], Metrics] | None
    better: Callable[[Metrics, Metrics], bool]
    save_checkpoint: Callable[[Progress], None]
    save_best: Callable[[Metrics], None]
    advance: Callable[[int, str], None]


def train(
    learner: Learner,
    stream: Stream | Blend,
    *,
    schedule: Schedule,
    start: Progress,
    observers: Observers,
) -> Progress:
    """Take optimiser steps until the schedule ends or the evaluation stops getting better.

    Raises: PipelineError if a loss is not finite, naming the step, the loss and the samples.
    """
    progress = start
    with closing(_groups(stream, schedule.accumulate)) as groups:
        for phase in _phases(learner, schedule):
            if progress.step < phase.end:
                phase.learner.network.tap(phase.learner.taps, only=phase.ends_early)
            while progress.step < phase.end and not _is_out_of_patience(progress, schedule):
                step = progress.step
                factor = SCHEDULES[schedule.kind](
                    step - phase.start, phase.end - phase.start, schedule.warmup_steps
                )
                for group in learner.optimizer.param_groups:
                    group["lr"] = schedule.learning_rate * factor
                if not learner.network.training:  # a look at every module
                    learner.network.train()
                epoch = stream.epoch
                values = _step(phase.learner, next(groups), step + 1, schedule=schedule)
                progress = replace(progress, step=step + 1, stream=stream.state_dict())
                observers.advance(1, f"loss {values['loss']:.4g}")
                if _is_told(progress.step, values, schedule):
                    line = {"step": progress.step, "epoch": epoch, **values}
                    observers.log(line | {"learning_rate": schedule.learning_rate * factor})
                progress = _observe(
                    phase.learner, progress, schedule, observers, judged=not phase.ends_early
                )
    return progress


@dataclass(frozen=True)
class Phase:
    """Steps, from `start` to before `end`, in which the same losses are learned from.

    One that `ends_early` runs the student no further than the features that are compared.
    """

    start: int
    end: int
    learner: Learner
    ends_early: bool = False


def _phases(learner: Learner, schedule: Schedule) -> list[Phase]:
    """Cut a run in two where its hints are for the first steps alone.

    Source: Romero et al. 2015, arXiv:1412.6550, section 2.2 and algorithm 1.
    """
    first = next((each.first_steps for each in learner.losses if each.first_steps), None)
    if first is None:
        return [Phase(0, schedule.steps, learner)]
    hints = [each for each in learner.losses if each.first_steps]
    others = [each for each in learner.losses if not each.first_steps]
    end = min(first, schedule.steps)
    return [
        Phase(0, end, _with_losses(learner, hints), ends_early=True),
        Phase(end, schedule.steps, _with_losses(learner, others)),
    ]


def _with_losses(learner: Learner, losses: Sequence[WeightedLoss]) -> Learner:
    names = {each.name for each in losses}
    taps = {name: tap for name, tap in learner.taps.items() if name in names}
    return replace(learner, losses=losses, taps=taps)


def _is_told(step: int, values: Mapping[str, Any], schedule: Schedule) -> bool:
    return step % schedule.log_every == 0 or step == 1 or "gradient_share" in values


def _groups(stream: Stream | Blend, accumulate: int) -> Generator[list[AnyBatch]]:
    """Batches of one optimiser step; a step never spans two epochs."""
    group: list[AnyBatch] = []
    for batch in stream.forever():
        group.append(batch)
        if len(group) == accumulate or stream.state_dict()["batch"] == 0:
            yield group
            group = []


def _step(
    learner: Learner, batches: Sequence[AnyBatch], step: int, *, schedule: Schedule
) -> dict[str, Any]:
    """Accumulate gradients over some batches and step; every mean is exact over all of them.

    Losses of weight 0 are measured, and only where they are told of.
    """
    every = schedule.gradients_every
    measured = len(learner.losses) > 1 and every > 0 and (step == 1 or step % every == 0)
    is_told = measured or step == 1 or step % schedule.log_every == 0
    losses = [each for each in learner.losses if each.weight or is_told]
    counts = learner.ranks.add_up(count_positions(losses, batches))
    values = dict.fromkeys([each.name for each in losses], 0.0)
    shares = dict[str, float]()
    for number, batch in enumerate(batches):
        apart = measured and number == 0
        sums, terms = _compare(learner, batch, losses, counts, apart=apart)
        told = tell(terms)
        if apart:
            norms = gradient_norms(sums, learner.network.model, learner.ranks)
            shares = _shares(losses, norms)
        backpropagate([root for roots in sums for root in roots])
        for each, term in zip(losses, told(), strict=True):
            values[each.name] += term
        _check_finite(values, batch, step)
    values = _add_ranks(learner, values)
    if schedule.clip_norm is not None:
        learner.accelerator.clip_grad_norm_(learner.network.parameters(), schedule.clip_norm)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    total = sum(each.weight * values[each.name] for each in losses)
    return {"loss": total, **values, **({"gradient_share": shares} if shares else {})}


def _compare(
    learner: Learner,
    batch: AnyBatch,
    losses: Sequence[WeightedLoss],
    counts: Sequence[float],
    *,
    apart: bool,
) -> Sums:
    """Ask the student about a batch; a rank that has no rows of it has nothing to add."""
    output = None
    if batch.row_count:
        output = learner.network(batch.inputs.to(learner.accelerator.device, non_blocking=True))
    related = relate_batch(output, batch, losses, learner.ranks)
    if output is None:
        return [[] for _ in losses], [[] for _ in losses]
    # A head of many classes is applied there, and is a part of the student.
    with learner.accelerator.autocast():
        return match(output, batch, losses, counts, apart=apart, related=related)


def _add_ranks(learner: Learner, values: Metrics) -> Metrics:
    """Add up losses and gradients over all ranks: each has divided by the counts of all."""
    if learner.ranks.size == 1:
        return values
    parameters = trained(learner.network)
    known = [float(each.grad is not None) for each in parameters]
    sums = learner.ranks.add_up([*values.values(), *known])
    add_gradients(parameters, sums[len(values) :], learner.ranks)
    return dict(zip(values, sums, strict=False))


def _shares(losses: Sequence[WeightedLoss], norms: Sequence[float]) -> dict[str, float]:
    """Say what part each loss has in the gradient; the norms of all add up to 1."""
    total = sum(norms) or 1.0
    named = zip(losses, norms, strict=True)
    return {each.name: norm / total for each, norm in named if each.weight}


def _check_finite(values: Metrics, batch: AnyBatch, step: int) -> None:
    for name, value in values.items():
        if value != value or value in (float("inf"), float("-inf")):
            ids = ", ".join(batch.ids[:5])
            raise PipelineError(
                f"step {step}: {name} became {value} on a batch that begins with the samples "
                f"{ids}\n"
                "  Lower training.learning_rate, set training.clip_norm = 1.0 or add warmup_steps; "
                "earlier checkpoints are kept."
            )


def _observe(
    learner: Learner,
    progress: Progress,
    schedule: Schedule,
    observers: Observers,
    *,
    judged: bool,
) -> Progress:
    is_last = progress.step == schedule.steps
    # A student whose last layers have not begun to learn is not worth judging.
    is_judged = (judged and progress.step % schedule.evaluate_every == 0) or is_last
    is_kept = progress.step % schedule.checkpoint_every == 0 or is_last
    if is_judged or is_kept:
        share_buffers(learner.network, learner.ranks)
    if is_judged:
        progress = _evaluate(progress, observers)
    if is_kept or _is_out_of_patience(progress, schedule):
        observers.save_checkpoint(progress)
    return progress


def _evaluate(progress: Progress, observers: Observers) -> Progress:
    metrics = observers.evaluate() if observers.evaluate else {}
    if observers.evaluate:
        observers.log({"step": progress.step, "validation": metrics})
    if progress.best_step and observers.evaluate and not observers.better(metrics, progress.best):
        return replace(progress, stale=progress.stale + 1)
    observers.save_best(metrics)
    return replace(progress, best=metrics, best_step=progress.step, stale=0)


def _is_out_of_patience(progress: Progress, schedule: Schedule) -> bool:
    return schedule.patience is not None and progress.stale >= schedule.patience
