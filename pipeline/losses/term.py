"""One loss of a batch, ready to be applied to any share of its positions.

A term knows all it compares with, how much it counts and over how many positions it is averaged.
It is applied to logits, all at once or block by block, and gives value and gradient together: all
of it is one node of autograd's graph.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.losses.average import at_least_float32, scaled


@dataclass(frozen=True)
class Term:
    """A loss over P positions: `rule` of logits of some of them, in float32 or better and divided
    by the temperature, gives a number a position and its derivative by the divided logits; the sum
    is multiplied by `factor`. Rules that `overwrite` get logits that nobody else needs.

    Shapes: rule takes logits (p, C) and the slice of positions they are; gives (p,) and (p, C).
    """

    rule: Callable[[Tensor, slice], tuple[Tensor, Tensor]]
    factor: Tensor | float
    positions: int
    temperature: float = 1.0
    overwrites: bool = False

    def compare(
        self, logits: Tensor, places: slice, *, spare: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Apply the rule; logits that are `spare` may be overwritten.

        Shapes: logits (p, C); returns (p,), and (p, C), the derivative by the divided logits.
        """
        wide = at_least_float32(logits)
        is_own = spare or wide is not logits
        if is_own and self.temperature != 1:
            wide = wide.div_(self.temperature)
        elif not is_own and (self.overwrites or self.temperature != 1):
            wide = wide / self.temperature
        return self.rule(wide, places)

    @property
    def slope(self) -> Tensor | float:
        """What a derivative by the divided logits is multiplied by, for that by the logits."""
        return self.factor / self.temperature


class Cuttable(Protocol):
    """Something over positions."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: slice, /) -> Any: ...


Whole = TypeVar("Whole", bound=Cuttable)


def cut(whole: Whole, places: slice) -> Whole:
    """Give what lies at some positions; of all of them, the thing itself.

    A slice of everything costs a small student some microseconds, and targets have many.
    """
    if places.stop - places.start == len(whole):
        return whole
    part: Whole = whole[places]
    return part


def apply(term: Term, logits: Tensor) -> Tensor:
    """Sum a term over the positions of all its logits. Shapes: logits (P, C); returns ()."""
    total: Tensor = _Applied.apply(logits, term)  # type: ignore[no-untyped-call]  # torch's own
    return total


class _Applied(torch.autograd.Function):
    """The gradient is computed with the value and kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, term: Term) -> Tensor:
        values, gradient = term.compare(logits, slice(0, len(logits)))
        ctx.save_for_backward(gradient)
        ctx.slope = term.slope
        return scaled(values.sum(), term.factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scaled(scale, ctx.slope), None
