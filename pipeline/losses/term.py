"""One loss of a batch, ready to be applied to any share of its positions.

A term knows all it compares with, how much it counts and over how many positions it is averaged.
It is applied to logits, all at once or block by block, and gives value and gradient together: all
of it is one node of autograd's graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.losses.average import at_least_float32, scaled


@dataclass(frozen=True)
class Term:
    """A loss over P positions: `rule` of logits of some of them, in float32 or better, gives a
    number a position and its derivative by the logits; the sum is multiplied by `factor`.

    Shapes: rule takes logits (p, C) and the slice of positions they are; gives (p,) and (p, C).
    """

    rule: Callable[[Tensor, slice], tuple[Tensor, Tensor]]
    factor: Tensor | float
    positions: int


def apply(term: Term, logits: Tensor) -> Tensor:
    """Sum a term over the positions of all its logits. Shapes: logits (P, C); returns ()."""
    total: Tensor = _Applied.apply(logits, term)  # type: ignore[no-untyped-call]  # torch's own
    return total


class _Applied(torch.autograd.Function):
    """The gradient is computed with the value and kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, term: Term) -> Tensor:
        values, gradient = term.rule(at_least_float32(logits), slice(0, len(logits)))
        ctx.save_for_backward(gradient)
        ctx.factor = term.factor
        return scaled(values.sum(), term.factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scaled(scale, ctx.factor), None
