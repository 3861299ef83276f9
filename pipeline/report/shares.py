"""What the softened teacher gives to some of the classes, from what was kept of its answers.

Knows Targets alone.
"""

import torch
from torch import Tensor

from pipeline.targets import Targets, low_rank_logits, soften, weigh_draws


def places_of(class_count: int, classes: Tensor) -> Tensor:
    """Say where each class is among some; the others are behind them. Shapes: returns (C,)."""
    place = torch.full((class_count,), len(classes))
    place[classes] = torch.arange(len(classes))
    return place


def class_shares(targets: Targets, classes: Tensor, temperature: float) -> Tensor:
    """Give the softened probability of some classes, as a student of these targets would see it.

    A class that was left out has what a low-rank tail says of it, or what draws say, which is right
    on average; else an even share of the tail.

    Shapes: classes (S,), each once; returns (P, S).
    """
    if targets.classes is None:
        return soften(targets, temperature).log_probs.exp()[:, classes]
    if targets.codes is not None:
        return low_rank_logits(targets, temperature).softmax(1)[:, classes]
    soft = soften(targets, temperature)
    assert soft.log_tail is not None
    place = places_of(targets.class_count, classes)
    # One more column, for classes that are not asked for.
    found = soft.log_probs.new_zeros(len(targets), len(classes) + 1)
    if targets.drawn is None:
        left_out = torch.as_tensor(targets.left_out_count).to(soft.log_tail)
        found += (soft.log_tail.exp() / left_out)[:, None]
    kept = place[targets.classes]  # (P, K)
    if targets.is_spare is not None:
        kept = kept.masked_fill(targets.is_spare, len(classes))
    found.scatter_(1, kept, soft.log_probs.exp())
    if targets.drawn is not None:
        weights, _ = weigh_draws(targets, temperature)
        found.scatter_add_(1, place[targets.drawn], weights)
    return found[:, :-1]
