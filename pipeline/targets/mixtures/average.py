"""The average of several teachers over all classes, each teacher's left-out ones filled in."""

import math

import torch
from torch import Tensor

from pipeline.targets.kept import Targets
from pipeline.targets.mixtures.mixture import Mixture
from pipeline.targets.soften import low_rank_logits, uniform_logits


def average(mixture: Mixture, temperature: float, *, shaped: bool = True) -> Tensor:
    """Average the teachers' softened distributions over all classes.

    A teacher's left-out classes have the shape of its tail, where one was kept and `shaped` lets it
    speak; else they share its mass evenly.

    Shapes: returns log-probs (P, C).
    """
    return log_average(
        [fill_in(targets, temperature, shaped=shaped) for targets in mixture.members],
        mixture.weights,
    )


def fill_in(targets: Targets, temperature: float, *, shaped: bool = True) -> Tensor:
    """Give one teacher's log-probs of all classes. Shapes: returns (P, C)."""
    if targets.has_tail:
        fill = low_rank_logits if shaped and targets.codes is not None else uniform_logits
        return fill(targets, temperature).log_softmax(1)
    logits = targets.logits / temperature
    if targets.classes is not None:  # the same classes in another order
        logits = torch.empty_like(logits).scatter_(1, targets.classes, logits)
    return logits.log_softmax(1)


def log_average(log_values: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    """Average what several teachers have of the same things, all of it as logarithms."""
    first, *others = (
        each + math.log(weight) for each, weight in zip(log_values, weights, strict=True)
    )
    for each in others:
        first = torch.logaddexp(first, each)
    return first
