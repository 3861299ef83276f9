"""Several losses of the logits of few classes at once, in numpy."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.losses.term import Term
from pipeline.targets import FEW_CLASSES

# From here on torch shares work out to threads.
MOST_LOGITS = 2**15
# Exps of a log-probability above this, divided by a temperature of at least 1, keep their full
# precision in float32, and no sum of some of them is 0.
LOWEST = -80.0


def few_losses(
    logits: Tensor, terms: Sequence[tuple[float, Term]]
) -> tuple[list[float], Tensor] | None:
    """Give of each loss the sum over positions, and the derivative of the weighted sum of all by
    the logits; nothing where torch's own rules are to be used.

    Shapes: logits (P, C); returns (P, C).
    """
    if not _are_few(logits) or not all(term.few for _, term in terms):
        return None
    whole = logits.detach().log_softmax(1)
    log_probs = whole.numpy()
    # As one test of infinite logits, and of what is not a number.
    if not np.minimum.reduce(log_probs, axis=None, initial=0) > LOWEST:
        return None
    found = [term.few(log_probs) for _, term in terms if term.few]
    known = [each for each in found if each is not None]
    if len(known) < len(terms):
        return None
    slopes = [float(weight * term.slope) for weight, term in terms]
    _add_up([gradient for _, gradient in known], slopes, out=log_probs)
    return [value for value, _ in known], whole


def _add_up(
    gradients: Sequence[NDArray[np.float32]], slopes: Sequence[float], *, out: NDArray[np.float32]
) -> None:
    """Weigh and add, in memory that torch has: to hand it over takes as long as a loss of labels.

    Shapes: (P, C) each.
    """
    np.multiply(gradients[0], slopes[0], out=out)
    for gradient, slope in zip(gradients[1:], slopes[1:], strict=True):
        gradient *= slope
        out += gradient


def _are_few(logits: Tensor) -> bool:
    return (
        logits.device.type == "cpu"
        and logits.dtype == torch.float32
        and logits.shape[1] < FEW_CLASSES
        and logits.numel() <= MOST_LOGITS
    )
