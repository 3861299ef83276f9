"""The tail at any temperature: measured at a few nodes, interpolated between them.

K(b) is the log of the sum of exp(b x) over the left-out classes, where x is a logit relative to the
position's largest and b the inverse temperature. Knows neither how classes are chosen nor files.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import TargetError

# Temperatures 1, 4/3, 2, 4, 8, 16. With the two slopes 32 bytes a position. Measured worst error in
# real teachers' tail mass, T in [1, 20]: 0.0006 (top-4 of 10) to 0.0047 (top-16 of 49,152).
DEFAULT_NODES = (1.0, 0.75, 0.5, 0.25, 0.125, 0.0625)
# In units of 1 / (1 + T). Closer knots would turn float32 rounding into slope.
SMALLEST_GAP = 0.001
# K'(0) is stored at most this many times as steep as the chord to the lowest node. Real teachers
# stay below 1.2; a vocabulary padded with -1e4 would bend the whole spline: error 0.97, not 0.004.
STEEPEST = 2.0

_PowerStep = tuple[float, tuple[float, float] | None, tuple[float, ...]]


def nodes_with(temperatures: Iterable[float]) -> tuple[float, ...]:
    """Choose nodes at which these temperatures are exact, beside the default ones.

    Raises: TargetError if a temperature is out of range, or two are too close to each other.
    """
    asked = sorted({1.0, *temperatures})
    highest = 1 / SMALLEST_GAP - 1
    for temperature in asked:
        if not 1.0 <= temperature <= highest:
            raise TargetError(
                f"targets: exact temperature {temperature:g} is out of range; between 1 and "
                f"{highest:g} is allowed. Temperatures above need no node: the tail is flat there."
            )
    for low, high in pairwise(asked):
        if 1 / (1 + low) - 1 / (1 + high) < SMALLEST_GAP:
            raise TargetError(
                f"targets: exact temperatures {low:g} and {high:g} are too close; 1 / (1 + T) must "
                f"differ by {SMALLEST_GAP:g} at least. Keep one of them."
            )
    chosen = [1 / temperature for temperature in asked]
    for node in DEFAULT_NODES:
        if all(abs(_knot(node) - _knot(other)) >= SMALLEST_GAP for other in chosen):
            chosen.append(node)
    return tuple(sorted(chosen, reverse=True))


class TailSums(NamedTuple):
    """What a tail is described by, as far as all left-out classes are needed for it.

    Shapes: best (P, 1), the largest left-out logit; powers (P, M), the sums of e^(node (x - best));
        plain and weighted (P, 1), the sums of x - best and of that times e^(x - best); float32.
    """

    best: Tensor
    powers: Tensor
    plain: Tensor
    weighted: Tensor


def sum_tail(relative: Tensor, classes: Tensor, nodes: tuple[float, ...]) -> TailSums:
    """Go through the left-out classes of some positions.

    Shapes: relative (P, C), classes (P, K), those that are not left out.
    """
    left_out = relative.scatter(1, classes, -math.inf)
    best = left_out.amax(1, keepdim=True)
    # A tail at -200 would underflow; relative to its own best class it does not.
    sums, powers = power_sums(left_out.sub_(best), nodes)
    left_out.scatter_(1, classes, 0.0)  # minus infinity times a power of 0 is not a number
    plain = left_out.sum(1, keepdim=True)
    return TailSums(best, sums, plain, left_out.mul_(powers).sum(1, keepdim=True))


def measure_tail(
    found: TailSums, nodes: tuple[float, ...], left_out_count: Tensor | float
) -> Tensor:
    """Compute K at each node, K'(0) and K'(1).

    Shapes: left_out_count () or (P, 1); returns (P, M + 2), float64.
    """
    best, sums, plain, weighted = (each.double() for each in found)
    values = sums.log() + best * best.new_tensor(nodes)
    chord = (values[:, -1:] - torch.as_tensor(left_out_count).log()) / nodes[-1]
    slope = torch.maximum(plain / left_out_count + best, STEEPEST * chord)
    return torch.cat([values, slope, weighted / sums[:, :1] + best], 1)


def power_sums(logits: Tensor, nodes: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Sum e^(node x) over classes; one exp, and products where two nodes add up to a third.

    Shapes: logits (P, C); returns the sums (P, nodes) and e^x (P, C).
    """
    powers: dict[float, Tensor] = {}
    sums: dict[float, Tensor] = {}
    for node, pair, spent in _power_steps(nodes):
        if pair is None:
            powers[node] = (logits * node).exp_()
        else:  # in place where it can be, so that a block stays in a core's cache
            place = powers[pair[0]] if pair[0] in spent else None
            powers[node] = torch.mul(powers[pair[0]], powers[pair[1]], out=place)
        sums[node] = powers[node].sum(1)
        for power in spent:
            del powers[power]
    return torch.stack([sums[node] for node in nodes], 1), powers[1.0]


@lru_cache
def _power_steps(nodes: tuple[float, ...]) -> tuple[_PowerStep, ...]:
    """Plan each node, ascending: which two make it (or None), which are spent afterwards."""
    steps: list[tuple[float, tuple[float, float] | None]] = []
    for node in reversed(nodes):
        made = [step[0] for step in steps]
        pairs = ((a, b) for a in reversed(made) for b in reversed(made) if a + b == node)
        steps.append((node, next(pairs, None)))
    last_use: dict[float, int] = {}
    for i, (node, pair) in enumerate(steps):
        last_use |= dict.fromkeys((node, *(pair or ())), i)
    last_use[1.0] = len(steps)
    return tuple(
        (node, pair, tuple(power for power, use in last_use.items() if use == i))
        for i, (node, pair) in enumerate(steps)
    )


@lru_cache(maxsize=256)
def tail_weights(nodes: tuple[float, ...], temperature: float) -> tuple[float, tuple[float, ...]]:
    """Weigh K(0) and the stored numbers so that their sum is K(1 / temperature).

    The cubic spline in u = b / (1 + b) = 1 / (1 + T) through K(0) and K at the nodes, with the
    stored slopes at both ends. It is linear in what is stored, so weights are all there is.

    Returns: the weight of K(0), and those of the stored numbers: one a node, K'(0), K'(1).
    Source: pipeline/store/FORMAT.md, the tail; de Boor, A Practical Guide to Splines, chapter IV.
    """
    knots = np.array([0.0, *(_knot(node) for node in reversed(nodes))])
    values, slopes = _spline_basis(knots)
    place = _knot(1 / temperature)
    left = min(int(np.searchsorted(knots, place, side="right")) - 1, len(nodes) - 1)
    step = knots[left + 1] - knots[left]
    t = (place - knots[left]) / step
    weights = (
        (1 + 2 * t) * (1 - t) ** 2 * values[left]
        + t**2 * (3 - 2 * t) * values[left + 1]
        + step * t * (1 - t) ** 2 * slopes[left]
        - step * t**2 * (1 - t) * slopes[left + 1]
    )
    at_nodes = weights[len(nodes) : 0 : -1]
    return float(weights[0]), (*map(float, at_nodes), float(weights[-2]), float(weights[-1]))


def _knot(node: float) -> float:
    return node / (1 + node)


def _spline_basis(knots: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Express value and slope at each knot by the values at the knots, then K'(0) and K'(1).

    Shapes: knots (G,); returns (G, G + 2) twice.
    """
    count = len(knots)
    values: NDArray[np.float64] = np.eye(count, count + 2)
    steps = np.diff(knots)[:, None]
    rises = np.diff(values, axis=0) / steps**2  # (G - 1, G + 2)
    system = np.eye(count)
    right = np.zeros((count, count + 2))
    for i in range(1, count - 1):
        before, after = 1 / steps[i - 1, 0], 1 / steps[i, 0]
        system[i, i - 1 : i + 2] = before, 2 * (before + after), after
        right[i] = 3 * (rises[i - 1] + rises[i])
    right[0, -2] = 1.0
    right[-1, -1] = 4.0  # dK/du = (1 + b)^2 dK/db
    return values, np.linalg.solve(system, right).astype(np.float64)
