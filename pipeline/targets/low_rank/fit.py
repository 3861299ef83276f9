"""Which directions of a teacher's logits matter, from its answers at some positions.

Within the span along which logits vary most, those that decide the teacher's distribution: of all
bases this one loses least divergence, to second order. A direction then has as many bits as it is
worth.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.targets.low_rank.basis import Basis
from pipeline.targets.low_rank.span import Blocks, Means, Span, find_means, find_span
from pipeline.targets.low_rank.steps import STEP, Bits, most_bytes, share_out

# Of 4 bits each: 15 steps, 7 to either side of nothing, reach so many standard deviations.
STEPS, REACH = 7, 2.5
# What directions are chosen for. The divergence at T, times T squared as losses have it, is half
# the variance of the logits' error under the softened distribution: each T counts the same. Each
# is half the one before.
TEMPERATURES = (4.0, 2.0, 1.0)
# So many directions a byte are looked at: of real teachers, no more are worth a bit.
DIRECTIONS_A_BYTE = 6
# What is added to a mean of squares before it is factored, as a share of its own mean.
RIDGE = 1e-9


@dataclass(frozen=True)
class Directions:
    """Along which logits vary, by how much the teacher's distributions vary with them.

    Shapes: bias and weights (C,), variances (w,), descending, vectors (C, w).
    """

    bias: Tensor
    weights: Tensor
    variances: Tensor
    vectors: Tensor


def fit_basis(blocks: Blocks, rank: int, seed: int, size_bytes: int | None = None) -> Basis:
    """Find the directions whose loss would change the teacher's distributions most.

    With `size_bytes` a position's codes take so many, shared out over at most `rank` directions;
    without, each of `rank` directions takes 4 bits. `blocks` yields the same logits each time.

    Shapes: blocks of (some, C).
    Raises: TargetError if there are fewer positions or classes than directions.
    """
    wanted = rank if size_bytes is None else min(rank, DIRECTIONS_A_BYTE * size_bytes)
    means = find_means(blocks)
    _check(rank, size_bytes, means)
    return choose_steps(_directions(blocks, means, wanted, seed), rank, size_bytes)


def find_directions(blocks: Blocks, count: int, seed: int) -> Directions:
    """Find so many directions, and a few spare ones, as far as there are.

    Shapes: blocks of (some, C).
    Source: KL(p || q) is half the variance under p of the logits' difference, to second order;
        Eckart and Young 1936, in that metric.
    """
    return _directions(blocks, find_means(blocks), count, seed)


def _directions(blocks: Blocks, means: Means, count: int, seed: int) -> Directions:
    span = find_span(blocks, means, count, seed)
    variances, vectors = _turn(span, _information(blocks, span))
    return Directions(means.logits, span.weights, variances, vectors)


def choose_steps(directions: Directions, rank: int, size_bytes: int | None = None) -> Basis:
    """Give each direction its bits, and make it as long as a step."""
    variances = directions.variances[:rank]
    if size_bytes is None:
        bits: Bits = ()
        steps = torch.full_like(variances, REACH / STEPS)
    else:
        bits = share_out(variances.tolist(), size_bytes)
        steps = torch.cat([variances.new_full((count,), STEP[width]) for width, count in bits])
    deviations = variances[: len(steps)].sqrt()
    length = torch.where(deviations > 0, deviations * steps, 1.0)
    kept = directions.vectors[:, : len(steps)] * length
    # Directions have no sign of their own; kept in 16 bits, and used as they are kept.
    largest = kept.gather(0, kept.abs().argmax(0, keepdim=True))
    kept = (kept * largest.sign()).half().float()
    return Basis(directions.bias.float(), directions.weights.float(), kept, bits)


def _check(rank: int, size_bytes: int | None, means: Means) -> None:
    classes, count = len(means.logits), means.positions
    least = min(count, classes)
    advice = (
        "Give a lower one, or keep the tail's mass alone: tail = { kind = 'bucket' }, or "
        "learn from more: targets.tail.positions"
    )
    known = f"for there are {classes} classes and {count} positions to learn from"
    if size_bytes is None and rank >= least:
        raise TargetError(
            f"targets.tail.rank: must be below {least}, {known}; got {rank}. {advice}"
        )
    if size_bytes is not None and size_bytes > (most := most_bytes(min(rank, least - 1))):
        raise TargetError(
            f"targets.tail.bytes: must be at most {most}, {known}; got {size_bytes}. {advice}"
        )


def _information(blocks: Blocks, span: Span) -> Tensor:
    """Average over positions and temperatures the covariance of the span's vectors under the
    teacher's softened distribution. Shapes: returns (w, w), float64.
    """
    vectors, count = span.vectors, 0
    mean = torch.zeros(len(vectors), dtype=torch.float64, device=vectors.device)
    square = torch.zeros(vectors.shape[1], vectors.shape[1]).to(mean)
    for block in blocks():
        block = block.float()
        powers = (block - block.amax(1, keepdim=True)).div_(TEMPERATURES[0]).exp_()
        for _ in TEMPERATURES:
            probs = powers / powers.sum(1, keepdim=True)
            expected = (probs @ vectors).double()  # (n, w)
            mean += probs.sum(0)
            square += expected.T @ expected
            powers = powers.square_()  # of half the temperature
        count += len(block) * len(TEMPERATURES)
    weighted = vectors.double() * (mean / count)[:, None]
    return weighted.T @ vectors.double() - square / count


def _turn(span: Span, information: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the span's vectors into those along which most divergence lies, each apart.

    Shapes: returns the variance along each, descending, (w,), and the vectors, (C, w).
    """
    along = span.along.double()
    size = len(information)
    ridge = torch.eye(size).to(information) * (information.trace() / size * RIDGE)
    factor = torch.linalg.cholesky(information + ridge)
    turned = along @ factor  # divergence is half the squared length, to second order
    spread = turned.T @ turned / len(along)
    variances, turn = torch.linalg.eigh(spread)
    turn = turn.flip(1)
    vectors = torch.linalg.solve_triangular(factor.T, turn, upper=True)
    return variances.flip(0).clamp(min=0.0).float(), span.vectors @ vectors.float()
