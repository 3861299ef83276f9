"""How the samples of a batch lie to each other: distances, angles, similarities.

All are functions of the squared distances or products of pairs, so that no width but that of the
batch is left in what grows. A relation is one of a batch: shares of a batch are averaged by their
size, and do not add up to the whole one's relations.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize, smooth_l1_loss

from pipeline.losses.features.entries import average, flatten

# As the authors' code clamps squared distances: those of equal samples have no gradient.
CLOSEST = 1e-12
FEWEST = 2
# Of cosines that are in memory at once: 4 MiB.
BLOCK_ELEMENTS = 2**20


def relational_distance(
    student_features: Tensor, features: Tensor, *, count: Tensor | float | None = None
) -> Tensor:
    """Give pairs of samples the distances that they have for the teacher.

    Each network's distances are divided by their own mean, of those that are not zero; the Huber
    loss of the differences is averaged over all pairs, of a sample with itself too.

    Shapes: both (n, ...), of any two widths; returns ().
    Source: Park et al. 2019, arXiv:1904.05068, equations 5 to 8, and its published code.
    """
    if len(features) < FEWEST:
        return _nothing(student_features)
    own, theirs = _distances(student_features), _distances(features.detach())
    value = smooth_l1_loss(own, theirs.to(own.dtype))
    return average(value * len(features), features, count)


def relational_angle(
    student_features: Tensor,
    features: Tensor,
    *,
    count: Tensor | float | None = None,
) -> Tensor:
    """Give triples of samples the angles that they have for the teacher.

    The Huber loss of the differences of cosines, averaged over all triples; where two of the three
    are one, the cosine is 0, or 1 with itself. Memory is that of some blocks of pairs, not of all
    triples.

    Shapes: both (n, ...), of any two widths; returns ().
    Source: Park et al. 2019, arXiv:1904.05068, equations 9 and 10, and its published code.
    """
    if len(features) < FEWEST:
        return _nothing(student_features)
    own, theirs = _squared_distances(student_features), _squared_distances(features.detach())
    value: Tensor = _Angles.apply(own, theirs)  # type: ignore[no-untyped-call]  # torch's own
    return average(value * len(features), features, count)


def similarity(
    student_features: Tensor, features: Tensor, *, count: Tensor | float | None = None
) -> Tensor:
    """Let samples be alike that are alike for the teacher.

    Products of all pairs, each sample's divided by their norm; the squared differences are averaged
    over pairs.

    Shapes: both (n, ...), of any two widths; returns ().
    Source: Tung and Mori 2019, arXiv:1907.09682, equations 2 to 4. torchdistill 1.1.5 divides by
        the sum of absolute values instead of the norm.
    """
    if len(features) < FEWEST:
        return _nothing(student_features)
    own, theirs = _products(student_features), _products(features.detach())
    value = (own - theirs.to(own.dtype)).square().mean()
    return average(value * len(features), features, count)


def _nothing(student_features: Tensor) -> Tensor:
    """Of fewer than two samples there is no relation. Shapes: returns ()."""
    return flatten(student_features).sum() * 0.0


def _products(features: Tensor) -> Tensor:
    flat = flatten(features)
    return normalize(flat @ flat.T, dim=1)


def _squared_distances(features: Tensor) -> Tensor:
    """Measure all pairs. Shapes: (n, ...); returns (n, n), the diagonal 0.

    In float64, for the distance of two that are close is a small difference of large numbers.
    """
    flat = flatten(features)
    wide = flat.double() if flat.device.type != "mps" else flat
    wide = wide - wide.mean(0)
    squares = wide.square().sum(1)
    apart = squares[:, None] + squares[None, :] - 2 * wide @ wide.T
    others = ~torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    return (apart.clamp(min=CLOSEST) * others).to(flat.dtype)


def _distances(features: Tensor) -> Tensor:
    """Measure all pairs, by the mean of those that are not 0. Shapes: returns (n, n)."""
    squared = _squared_distances(features)
    # The root of 0 has no slope, and the diagonal is 0 whatever the features are.
    distances = torch.where(squared > 0, squared.clamp(min=CLOSEST).sqrt(), 0.0)
    positive = distances > 0
    return distances / (distances.sum() / positive.sum().clamp(min=1)).clamp(min=CLOSEST)


class _Angles(torch.autograd.Function):
    """The loss of all angles as a function of squared distances, value and gradient in blocks."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, theirs: Tensor) -> Tensor:
        n = len(own)
        size = max(1, BLOCK_ELEMENTS // (n * n))
        leaf = own.detach().requires_grad_(ctx.needs_input_grad[0])
        total = own.new_zeros(())
        for start in range(0, n, size):
            corners = slice(start, start + size)
            with torch.no_grad():
                wanted = _cosines(theirs, corners).to(own.dtype)
            with torch.set_grad_enabled(leaf.requires_grad):
                value = smooth_l1_loss(_cosines(leaf, corners), wanted, reduction="sum") / n**3
                if leaf.requires_grad:
                    value.backward()  # type: ignore[no-untyped-call]  # torch's own
            total += value.detach()
        ctx.save_for_backward(leaf.grad if leaf.requires_grad else None)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None


def _cosines(squared: Tensor, corners: slice) -> Tensor:
    """Compute the cosine at corner j between i and k, by the law of cosines.

    Shapes: squared (n, n); returns (corners, n, n).
    """
    sides = squared[corners]  # (J, n)
    inverse = torch.where(sides > CLOSEST, sides.clamp(min=CLOSEST).rsqrt(), 0.0)
    between = (sides[:, :, None] + sides[:, None, :] - squared) / 2  # (J, n, n)
    return between * inverse[:, :, None] * inverse[:, None, :]
