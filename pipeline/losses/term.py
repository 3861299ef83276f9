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

from pipeline.losses.average import at_least_float32, scaled, share

# Some of the positions of a whole, in order or as indices (p,).
Places = slice | Tensor


@dataclass(frozen=True)
class Term:
    """A loss over P positions: `rule` of logits of some of them, in float32 or better and divided
    by the temperature, gives a number a position and its derivative by the divided logits; the sum
    is multiplied by `factor`. Rules that `overwrite` get logits that nobody else needs. The rule may
    know more positions than these: then `index` says which of them they are.

    Shapes: rule takes logits (p, C) and which positions they are; gives (p,) and (p, C); index (P,).
    """

    rule: Callable[[Tensor, Places], tuple[Tensor, Tensor]]
    factor: Tensor | float
    positions: int
    temperature: float = 1.0
    overwrites: bool = False
    index: Tensor | None = None

    def compare(
        self, logits: Tensor, places: Places, *, spare: bool = False
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
        return self.rule(wide, places if self.index is None else cut(self.index, places))

    @property
    def slope(self) -> Tensor | float:
        """What a derivative by the divided logits is multiplied by, for that by the logits."""
        return self.factor / self.temperature

    def at(self, index: Tensor, count: float) -> "Term":
        """Give the loss of some positions, averaged over `count`; of them all the factor is that of
        one. Shapes: index (p,).
        """
        assert self.index is None
        factor = self.factor * share(count)
        # dataclasses.replace takes longer than all else that is done here.
        return Term(self.rule, factor, len(index), self.temperature, self.overwrites, index)


class Cuttable(Protocol):
    """Something over positions."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: Places, /) -> Any: ...


Whole = TypeVar("Whole", bound=Cuttable)


def cut(whole: Whole, places: Places) -> Whole:
    """Give what lies at some positions; of all of them in order, the thing itself.

    A slice of everything costs a small student some microseconds, and targets have many.
    """
    part: Any
    if isinstance(places, Tensor) and isinstance(whole, Tensor):
        part = whole.index_select(0, places)  # whole[places] takes twice as long to be asked for
    elif isinstance(places, slice) and places.stop - places.start == len(whole):
        part = whole
    else:
        part = whole[places]
    found: Whole = part
    return found


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
