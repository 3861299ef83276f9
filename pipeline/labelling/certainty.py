"""How certain the teacher was at each position, at any temperature, from what was kept.

Knows what Targets hold; neither the samples nor what certainty is used for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.targets.kept import Targets
from pipeline.targets.soften import (
    check_temperature,
    left_out_logits,
    log_tail_sum,
    low_rank_logits,
)
from pipeline.targets.tail import tail_weights

# Half the relative step that the slope of the tail is measured over.
STEP = 1e-4


@dataclass(frozen=True)
class Certainty:
    """The teacher's first choice, and how sure it was.

    `doubt` is minus the log of its probability: it tells apart what confidence rounds to 1.

    Shapes: each (P,); float64 but for the classes.
    Units:  doubt and entropy in nats.
    """

    classes: Tensor
    doubt: Tensor
    margin: Tensor
    entropy: Tensor


def measure_certainty(targets: Targets, temperature: float) -> Certainty:
    """Measure certainty over all classes; the targets must come with their statistics.

    Exact where all classes were kept, and at temperature 1; else as exact as the tail is.

    Raises: TargetError if the temperature cannot be served.
    """
    check_temperature(temperature, has_tail=targets.has_tail)
    logits = _logits(targets) / temperature  # (P, K)
    powers = logits.exp()
    total, moment = powers.sum(1), (powers * logits.nan_to_num(neginf=0.0)).sum(1)
    if targets.has_tail:
        tail = log_tail_sum(targets, temperature).double().exp()
        total, moment = total + tail, moment + tail * _tail_slope(targets, temperature)
    second = (_runner_up(targets) / temperature).exp()
    entropy = (total.log() - moment / total).clamp(min=0.0)
    if temperature == 1.0:  # what was counted over all classes then
        entropy = targets.statistics["entropy"].double()
    return Certainty(targets.top_classes(), total.log(), (1 - second) / total, entropy)


def label_surprise(targets: Targets, labels: Tensor, temperature: float) -> Tensor:
    """Compute -log p(label) of the softened teacher.

    A label that was left out has what a low-rank tail says of it, else an even share of the tail.

    Shapes: labels (P,), each a class; returns (P,), float64.
    Units:  nats.
    Raises: TargetError if draws alone were kept, which say nothing of a label's probability, or if
        the temperature cannot be served.
    """
    if not targets.logits.shape[1]:
        raise TargetError(
            "targets: hold draws alone (selection 'sampled'), so the probability of a label is not "
            "known. Calibrate on a cache of top_k, hybrid or all classes."
        )
    check_temperature(temperature, has_tail=targets.has_tail)
    logits = _logits(targets) / temperature  # (P, K)
    if targets.codes is not None and targets.basis is not None:
        dense = low_rank_logits(targets, temperature).double().log_softmax(1)
        return -dense.gather(1, labels[:, None])[:, 0]
    if targets.classes is None:
        return -logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    total = logits.exp().sum(1)
    is_label = (targets.classes == labels[:, None]) & logits.isfinite()
    found = logits.where(is_label, -torch.inf).amax(1)
    if targets.has_tail:
        tail = log_tail_sum(targets, temperature).double()
        left_out = torch.as_tensor(targets.left_out_count, dtype=torch.float64)
        total = total + tail.exp()
        found = torch.where(is_label.any(1), found, tail - left_out.log())
    return total.log() - found


def _logits(targets: Targets) -> Tensor:
    """Give the kept logits, without those of spare places. Shapes: returns (P, K), float64."""
    logits, spare = targets.logits.double(), targets.is_spare
    return logits if spare is None else logits.where(~spare, -torch.inf)


def _runner_up(targets: Targets) -> Tensor:
    """Find the second largest logit at temperature 1. Shapes: returns (P,), float64."""
    statistics = {name: each.double() for name, each in targets.statistics.items()}
    told = torch.log1p(-(statistics["margin"] / statistics["confidence"]).clamp(max=1.0))
    logits = _logits(targets)
    if logits.shape[1] < 2:
        return told
    second = logits.topk(2, dim=1).values[:, 1]
    return second.where(second.isfinite(), told)


def _tail_slope(targets: Targets, temperature: float) -> Tensor:
    """Compute K'(b) b: the tail's mean logit under its own distribution, softened.

    Shapes: returns (P,), float64.
    """
    assert targets.tail is not None
    if targets.has_mass_alone:
        softened = left_out_logits(targets).double() / temperature
        return (softened.softmax(1) * softened.nan_to_num(neginf=0.0)).sum(1)
    above, below = max(1.0, temperature * (1 - STEP)), temperature * (1 + STEP)
    pairs = [tail_weights(targets.nodes, each) for each in (above, below)]
    width = 1 / above - 1 / below
    known = (pairs[0][0] - pairs[1][0]) / width
    stored = torch.tensor(pairs[0][1], dtype=torch.float64) - torch.tensor(
        pairs[1][1], dtype=torch.float64
    )
    left_out = torch.as_tensor(targets.left_out_count, dtype=torch.float64)
    slope = known * left_out.log() + (targets.tail.double() * (stored / width)).sum(1)
    return slope / temperature
