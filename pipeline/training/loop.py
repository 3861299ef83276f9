"""One training loop, for students, baselines and small teachers alike.

It takes a stream, a network and weighted losses, and knows neither recipe nor terminal. Everything
it needs to go on after a stop is in the checkpoint, so a resumed run takes the very same steps.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.losses import LOSSES, Loss, Term, fused_losses
from pipeline.models import Network, Output
from pipeline.stream import Batch, Stream
from pipeline.training.optimizer import SCHEDULES

Metrics = dict[str, float]


@dataclass(frozen=True)
class WeightedLoss:
    """One entry of a recipe's losses; `name` is what metrics call it."""

    name: str
    loss: Loss
    weight: float
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Learner:
    """What learns, and from what; network and optimizer are already the accelerator's."""

    accelerator: Accelerator
    network: Network
    optimizer: torch.optim.Optimizer
    losses: Sequence[WeightedLoss]


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


@dataclass(frozen=True)
class Progress:
    """How far a run has come; part of its checkpoint."""

    step: int = 0
    best: Metrics = field(default_factory=dict)
    best_step: int = 0
    stale: int = 0
    stream: dict[str, int] = field(default_factory=dict)


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


def weigh(entries: Sequence[Mapping[str, Any]]) -> list[WeightedLoss]:
    """Look up a recipe's losses, those of features last; a kind that occurs twice is numbered."""
    weighted: list[WeightedLoss] = []
    for entry in entries:
        settings = {key: value for key, value in entry.items() if key not in ("kind", "weight")}
        same = sum(each.name.partition("_#")[0] == entry["kind"] for each in weighted)
        name = entry["kind"] + (f"_#{same + 1}" if same else "")
        weighted.append(WeightedLoss(name, LOSSES[entry["kind"]], entry["weight"], settings))
    return sorted(weighted, key=lambda each: each.loss.needs == "features")


def train(
    learner: Learner,
    stream: Stream,
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
        while progress.step < schedule.steps and not _is_out_of_patience(progress, schedule):
            step = progress.step
            factor = SCHEDULES[schedule.kind](step, schedule.steps, schedule.warmup_steps)
            for group in learner.optimizer.param_groups:
                group["lr"] = schedule.learning_rate * factor
            learner.network.train()
            epoch = stream.epoch
            values = _step(learner, next(groups), step + 1, schedule.clip_norm)
            progress = replace(progress, step=step + 1, stream=stream.state_dict())
            observers.advance(1, f"loss {values['loss']:.4g}")
            if progress.step % schedule.log_every == 0 or progress.step == 1:
                line = {"step": progress.step, "epoch": epoch, **values}
                observers.log(line | {"learning_rate": schedule.learning_rate * factor})
            progress = _observe(progress, schedule, observers)
    return progress


def _groups(stream: Stream, accumulate: int) -> Generator[list[Batch]]:
    """Batches of one optimiser step; a step never spans two epochs."""
    group: list[Batch] = []
    for batch in stream.forever():
        group.append(batch)
        if len(group) == accumulate or stream.state_dict()["batch"] == 0:
            yield group
            group = []


def _step(
    learner: Learner, batches: Sequence[Batch], step: int, clip_norm: float | None
) -> Metrics:
    """Accumulate gradients over some batches and step; every mean is exact over all of them."""
    counts = [
        sum(float(each.loss.count(_reference(batch, each), **each.settings)) for batch in batches)
        for each in learner.losses
    ]
    values = dict.fromkeys([each.name for each in learner.losses], 0.0)
    for batch in batches:
        total, terms = _compute(learner, batch, counts)
        for each, term in zip(learner.losses, terms.tolist(), strict=True):
            values[each.name] += term
        _check_finite(values, batch, step)
        learner.accelerator.backward(total)
    if clip_norm is not None:
        learner.accelerator.clip_grad_norm_(learner.network.parameters(), clip_norm)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    return {"loss": sum(each.weight * values[each.name] for each in learner.losses), **values}


# A loss, what it compares with, and over how many positions it is averaged.
Asked = tuple[WeightedLoss, Any, float]


def _compute(learner: Learner, batch: Batch, counts: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Give the weighted sum of all losses, and each of them. Shapes: returns () and (losses,)."""
    device = learner.accelerator.device
    output = learner.network(batch.inputs.to(device))
    asked = [
        (each, _reference(batch, each).to(device), count)
        for each, count in zip(learner.losses, counts, strict=True)
    ]
    of_logits = [each for each in asked if each[0].loss.needs != "features"]
    of_features = asked[len(of_logits) :]
    sums = [_match_logits(output, of_logits)] if of_logits else []
    if not of_features:
        return sums[0]
    sums += [_match_feature(output, *each) for each in of_features]
    return reduce(add, [total for total, _ in sums]), torch.cat([terms for _, terms in sums])


def _match_logits(output: Output, asked: Sequence[Asked]) -> tuple[Tensor, Tensor]:
    if output.layer is not None:  # logits of many classes are never all there
        terms = [(each.weight, _term(each, reference, count)) for each, reference, count in asked]
        return fused_losses(output.states, output.layer, terms)
    logits = output.logits  # (P, C)
    values = [
        each.loss.function(logits, reference, count=count, **each.settings)
        for each, reference, count in asked
    ]
    weighted = [each.weight * term for (each, _, _), term in zip(asked, values, strict=True)]
    return reduce(add, weighted), torch.stack([term.detach() for term in values])


def _term(loss: WeightedLoss, reference: Any, count: float) -> Term:
    assert loss.loss.term, "a loss of features is not applied to logits"
    return loss.loss.term(reference, count, **loss.settings)


def _match_feature(
    output: Output, loss: WeightedLoss, reference: Tensor, count: float
) -> tuple[Tensor, Tensor]:
    own = output.features[loss.settings["module"]]  # (P, d)
    term = loss.loss.function(own, reference, count=count)
    return loss.weight * term, term.detach()[None]


def _reference(batch: Batch, loss: WeightedLoss) -> Any:
    found = getattr(batch, loss.loss.needs)
    return found[loss.settings["feature"]] if loss.loss.needs == "features" else found


def _check_finite(values: Metrics, batch: Batch, step: int) -> None:
    for name, value in values.items():
        if value != value or value in (float("inf"), float("-inf")):
            ids = ", ".join(batch.ids[:5])
            raise PipelineError(
                f"step {step}: {name} became {value} on a batch that begins with the samples "
                f"{ids}\n"
                "  Lower training.learning_rate, set training.clip_norm = 1.0 or add warmup_steps; "
                "the last checkpoint is kept."
            )


def _observe(progress: Progress, schedule: Schedule, observers: Observers) -> Progress:
    is_last = progress.step == schedule.steps
    if progress.step % schedule.evaluate_every == 0 or is_last:
        progress = _evaluate(progress, observers)
    out_of_patience = _is_out_of_patience(progress, schedule)
    if progress.step % schedule.checkpoint_every == 0 or is_last or out_of_patience:
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
