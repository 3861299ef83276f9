"""What is a student asked to match?

Every loss is a function of the student's logits (P, C) and one thing to match, and averages over
positions exactly: `count` replaces the number at hand where a batch is a share of a larger one.
To add a loss, write its function, add a line to `LOSSES`, and test what must hold. A loss that is
a `Term` as well can be computed from states and an output layer, without logits ever being whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pipeline.losses.features.attention import attention_transfer
from pipeline.losses.features.cosine import cosine
from pipeline.losses.features.entries import count_entries
from pipeline.losses.features.hint import hint
from pipeline.losses.features.projection import make_projection
from pipeline.losses.features.relations import relational_angle, relational_distance, similarity
from pipeline.losses.fused import fused_losses, joined_losses
from pipeline.losses.hard_labels import (
    count_labelled,
    hard_labels,
    hard_labels_term,
    sum_hard_labels,
)
from pipeline.losses.pseudo_labels import count_pseudo, pseudo_labels, pseudo_labels_term
from pipeline.losses.soft_targets import count_soft, soft_targets, soft_targets_term
from pipeline.losses.term import Term


@dataclass(frozen=True)
class Loss:
    """A loss, what of a batch it needs, and how many positions of that it averages over."""

    function: Callable[..., Tensor]
    needs: Literal["targets", "labels", "pseudo_labels", "features"]
    count: Callable[..., Tensor | int]
    # None where the loss is not one of logits.
    term: Callable[..., Term] | None
    # Whether it compares the samples of a batch with each other, so that it needs all of them.
    is_between_samples: bool = False
    # Its sum, where torch differentiates it by itself: quicker where it is the only one.
    native: Callable[[Tensor, Any], Tensor] | None = None


LOSSES: dict[str, Loss] = {
    "soft_targets": Loss(soft_targets, "targets", count_soft, soft_targets_term),
    "hard_labels": Loss(
        hard_labels, "labels", count_labelled, hard_labels_term, native=sum_hard_labels
    ),
    "pseudo_labels": Loss(pseudo_labels, "pseudo_labels", count_pseudo, pseudo_labels_term),
    "cosine": Loss(cosine, "features", count_entries, None),
    "hint": Loss(hint, "features", count_entries, None),
    "attention_transfer": Loss(attention_transfer, "features", count_entries, None),
    "relational_distance": Loss(relational_distance, "features", count_entries, None, True),
    "relational_angle": Loss(relational_angle, "features", count_entries, None, True),
    "similarity": Loss(similarity, "features", count_entries, None, True),
}

__all__ = [
    "LOSSES",
    "Loss",
    "Term",
    "attention_transfer",
    "cosine",
    "fused_losses",
    "hard_labels",
    "hint",
    "joined_losses",
    "make_projection",
    "pseudo_labels",
    "relational_angle",
    "relational_distance",
    "similarity",
    "soft_targets",
]
