"""The span along which a teacher's logits vary most, in weighted squared error.

All that follows happens in a few hundred numbers a position. Found on the CPU or a GPU, in passes
over blocks of logits that are never in memory together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import TargetError

# Classes weigh as this power of their mean probability in the squared error: higher serves T = 1,
# lower T = 4; between 0.25 and 0.7 it hardly matters.
WEIGHT_POWER = 0.4
LEAST_PROBABILITY = 1e-9
# Of randomised subspace iteration (Halko, Martinsson and Tropp 2011, arXiv:0909.4061).
SPARE_VECTORS, ITERATIONS = 16, 2

Blocks = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Means:
    """Of centred logits and of probabilities over positions. Shapes: (C,) each."""

    logits: Tensor
    probability: Tensor
    positions: int


@dataclass(frozen=True)
class Span:
    """Logits are near `bias` plus `along` times `vectors`, up to each position's own number.

    Shapes: along (N, w), vectors (C, w); bias and weights (C,).
    """

    along: Tensor
    vectors: Tensor
    bias: Tensor
    weights: Tensor


def find_means(blocks: Blocks) -> Means:
    """Average over all positions.

    Raises: TargetError if a logit is not finite.
    """
    logits: Tensor | None = None
    probability: Tensor | None = None
    count = 0
    for block in blocks():
        block = block.float()
        centred, probs = (block - block.mean(1, keepdim=True)).sum(0), block.softmax(1).sum(0)
        logits = centred if logits is None else logits + centred
        probability = probs if probability is None else probability + probs
        count += len(block)
    assert logits is not None
    assert probability is not None
    if not bool(logits.isfinite().all()):
        raise TargetError(
            "targets.tail: a logit of the teacher is NaN or infinite among the positions that the "
            "tail's shape is learned from. Run the teacher in float32, or look at its inputs."
        )
    return Means(logits / count, probability / count, count)


def find_span(blocks: Blocks, means: Means, count: int, seed: int) -> Span:
    """Find so many directions, and a few spare ones, as far as there are."""
    width = max(1, min(count + SPARE_VECTORS, means.positions - 1, len(means.logits) - 1))
    bias = means.logits
    weights = (means.probability + LEAST_PROBABILITY) ** WEIGHT_POWER
    weights /= weights.mean()
    root = weights.sqrt()

    generator = torch.Generator().manual_seed(seed)
    span = torch.randn(len(bias), width, generator=generator).to(bias) * root[:, None]
    for _ in range(ITERATIONS):
        along = torch.linalg.qr(_along(blocks, bias, span))[0]  # (N, width)
        back = _back(blocks, bias, along) * root[:, None]
        span = torch.linalg.qr(back)[0] * root[:, None]
    return Span(_along(blocks, bias, span), span / weights[:, None], bias, weights)


def _along(blocks: Blocks, bias: Tensor, vectors: Tensor) -> Tensor:
    """Multiply centred logits without the bias by vectors. Shapes: (C, w); returns (N, w)."""
    # Centred in the vectors, for a block is read often and has as many numbers as positions more.
    centred = vectors - vectors.mean(0)
    return torch.cat([block.float() @ centred for block in blocks()]) - bias @ centred


def _back(blocks: Blocks, bias: Tensor, along: Tensor) -> Tensor:
    """Multiply the same transposed by numbers a position. Shapes: (N, w); returns (C, w)."""
    total, start = along.new_zeros(len(bias), along.shape[1]), 0
    for block in blocks():
        total.addmm_(block.float().T, along[start : start + len(block)])
        start += len(block)
    return total - total.mean(0) - torch.outer(bias, along.sum(0))
