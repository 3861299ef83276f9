"""One loss of a batch, ready to be applied to any share of its positions.

A term knows all it compares with, how much it counts and over how many positions it is averaged.
It is applied to logits, all at once or block by block, and gives value and gradient together: all
of it is one node of autograd's graph.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.losses.average import at_least_float32, scaled, share
from pipeline.targets import blocks_of

# Some of the positions of a whole, in order or as indices (p,).
Places = slice | Tensor


class Answer(NamedTuple):
    """A number a position, and its derivative by the logits divided by the temperature: `gradient`,
    times `rows` where there are some, and with `added` at some `classes`. With many classes each
    pass over them counts, and both can be had in that in which several losses are added up.

    Shapes: value (p,), gradient (p, C), rows (p, 1), classes and added (p, E).
    """

    value: Tensor
    gradient: Tensor
    rows: Tensor | None = None
    classes: Tensor | None = None
    added: Tensor | None = None

    def weighed(self, weights: Tensor) -> "Answer":
        """Let each position count as much as it weighs. Shapes: weights (p,)."""
        column = weights.to(self.gradient.dtype)[:, None]
        return Answer(
            self.value * column[:, 0],
            self.gradient,
            column if self.rows is None else self.rows * column,
            self.classes,
            None if self.added is None else self.added * column,
        )

    def derivative(self, slope: Tensor | float = 1.0) -> Tensor:
        """Put it together, times a slope, where the gradient lies. Shapes: returns (p, C)."""
        found = self.gradient
        if self.rows is not None:
            found = found.mul_(times(self.rows, slope))
        elif isinstance(slope, Tensor) or slope != 1:
            found = found.mul_(slope)
        return self.add_sparse(found, slope)

    def without_rows(self) -> Tensor:
        """Put it together but for `rows`, by which somebody else multiplies. Shapes: (P, C)."""
        if self.rows is None or self.classes is None or self.added is None:
            return self.add_sparse(self.gradient, 1.0)
        # What weighs nothing has nothing to add.
        divisors = self.rows.where(self.rows != 0, 1.0)
        added = (self.added / divisors).to(self.gradient.dtype)
        return self.gradient.scatter_add_(1, self.classes, added)

    def add_sparse(self, whole: Tensor, slope: Tensor | float) -> Tensor:
        """Add what is for some classes alone to a whole, times a slope. Shapes: whole (p, C)."""
        if self.classes is None or self.added is None:
            return whole
        return whole.scatter_add_(1, self.classes, times(self.added, slope).to(whole.dtype))


def times(tensor: Tensor, slope: Tensor | float) -> Tensor:
    """Multiply; by 1 not at all."""
    return tensor if isinstance(slope, float) and slope == 1 else tensor * slope


class Block(NamedTuple):
    """A student's logits at some positions, in float32 or better, and which ones these are.

    They may be overwritten if they are `spare`; no logit of a position is above its `largest`, if
    somebody has looked.

    Shapes: logits (p, C), largest (p, 1).
    """

    logits: Tensor
    places: Places
    spare: bool = False
    largest: Tensor | None = None


Rule = Callable[[Block], Answer]
# Of a student's log-probabilities (p, C) in numpy, all of few classes: the sum of a loss, and its
# derivative (p, C) by the logits divided by the temperature; None of what other rules are for. Or
# of places (p,) among more, and these.
Few = tuple[float, NDArray[np.float32]]
FewRule = Callable[[NDArray[np.float32]], Few | None]
FewRuleAt = Callable[[NDArray[np.int64], NDArray[np.float32]], Few | None]


class Term(NamedTuple):
    """A loss over P positions: what `rule` says of some of them is summed, and multiplied by
    `factor`. Rules that `overwrite` make a copy of logits that others need. The rule may know more
    positions than these: then `which` says which of them they are.

    `few` is the rule for few classes in host memory, if there is one; `few_at` makes it for some of
    more positions, where it is worth being prepared for.

    Shapes: which (P,).
    """

    rule: Rule
    factor: Tensor | float
    positions: int
    temperature: float = 1.0
    overwrites: bool = False
    which: Tensor | None = None
    few: FewRule | None = None
    few_at: FewRuleAt | None = None

    def compare(
        self,
        logits: Tensor,
        places: Places,
        *,
        spare: bool = False,
        largest: Tensor | None = None,
    ) -> Answer:
        """Apply the rule to what makes a `Block` with logits of any precision.

        Shapes: logits (p, C), largest (p, 1).
        """
        wide = at_least_float32(logits)
        at = places if self.which is None else cut(self.which, places)
        return self.rule(Block(wide, at, spare or wide is not logits, largest))

    @property
    def slope(self) -> Tensor | float:
        """What a derivative by the divided logits is multiplied by, for that by the logits."""
        return self.factor / self.temperature

    def at(self, index: Tensor, count: float) -> "Term":
        """Give the loss of some positions, averaged over `count`; of them all the factor is that of
        one. Shapes: index (p,).
        """
        assert self.which is None
        factor = self.factor * share(count)
        few = self.few_at and partial(self.few_at, index.numpy())
        return Term(self.rule, factor, len(index), self.temperature, self.overwrites, index, few)


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


def in_blocks(rule: Rule) -> Rule:
    """Let a rule that makes several numbers of each logit look at a block of positions at a time,
    if the logits of all may be overwritten: what it makes is never whole, and stays in the cache.
    """

    def compare(block: Block) -> Answer:
        parts = blocks_of(block.logits) if block.spare else []
        if len(parts) < 2:
            return rule(block)
        answers = []
        for rows in parts:
            own = block.logits[rows]
            most = None if block.largest is None else block.largest[rows]
            answer = rule(Block(own, within(block.places, rows), True, most))
            if answer.gradient is not own:
                own.copy_(answer.gradient)
            answers.append(answer)
        return _join(answers, block.logits)

    return compare


def _join(answers: Sequence[Answer], whole: Tensor) -> Answer:
    """Make one of the answers of one rule; their gradients lie in a whole. Shapes: whole (p, C)."""

    def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
        known = [part for part in parts if part is not None]
        return torch.cat(known) if known else None

    values, _, rows, classes, added = zip(*answers, strict=True)
    return Answer(torch.cat(values), whole, joined(rows), joined(classes), joined(added))


def within(places: Places, rows: slice) -> Places:
    """Say which some of the places are."""
    if isinstance(places, Tensor):
        return places[rows]
    return slice(places.start + rows.start, min(places.start + rows.stop, places.stop))


def apply(term: Term, logits: Tensor) -> Tensor:
    """Sum a term over the positions of all its logits. Shapes: logits (P, C); returns ()."""
    total: Tensor = _Applied.apply(logits, term)  # type: ignore[no-untyped-call]  # torch's own
    return total


class _Applied(torch.autograd.Function):
    """The gradient is computed with the value and kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, term: Term) -> Tensor:
        answer = term.compare(logits, slice(0, len(logits)))
        ctx.save_for_backward(answer.derivative())
        ctx.slope = term.slope
        return scaled(answer.value.sum(), term.factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scaled(scale, ctx.slope), None
