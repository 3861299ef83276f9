"""What is a student asked to match?

Every loss is a function of the student's logits (P, C) and one thing to match, and averages over
positions exactly: `count` replaces the number at hand where a batch is a share of a larger one.
To add a loss, write its function, add a line to `LOSSES`, and test what must hold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pipeline.losses.hard_labels import count_labelled, hard_labels
from pipeline.losses.soft_targets import soft_targets


@dataclass(frozen=True)
class Loss:
    """A loss, what of a batch it needs, and how many positions of that it averages over."""

    function: Callable[..., Tensor]
    needs: Literal["targets", "labels"]
    count: Callable[[Any], Tensor | int]


LOSSES: dict[str, Loss] = {
    "soft_targets": Loss(soft_targets, needs="targets", count=len),
    "hard_labels": Loss(hard_labels, needs="labels", count=count_labelled),
}

__all__ = ["LOSSES", "Loss", "hard_labels", "soft_targets"]
