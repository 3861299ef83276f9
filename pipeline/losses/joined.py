"""Several losses of the same logits: values and one gradient, computed together.

Small students take longer to ask for such operations than to do them, and autograd's nodes, of
which each loss would have several, most of all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.losses.term import Term
from pipeline.targets import constants

# A loss, and its weight among others.
Weighted = tuple[float, Term]


def joined_losses(logits: Tensor, terms: Sequence[Weighted]) -> tuple[Tensor, Tensor]:
    """Give a number to learn from, whose gradient is that of all weighted losses together, and the
    losses themselves, unweighted.

    That number is no loss: it is the logits times their gradient, which autograd need not be told.

    Shapes: logits (P, C); returns () and (number of terms,), the latter without gradient.
    """
    assert all(term.positions == len(logits) for _, term in terms), "targets of other positions"
    with torch.no_grad():
        values, gradient = compare_all_terms(logits, slice(0, len(logits)), terms)
    return (logits * gradient).sum(), values


def compare_all_terms(
    logits: Tensor, places: slice, terms: Sequence[Weighted], *, spare: bool = False
) -> tuple[Tensor, Tensor]:
    """Apply terms to logits at some of their positions; gives the sum of each, unweighted, and the
    derivative of their weighted sum, which lies where the logits were if those are `spare`.

    Shapes: logits (p, C); returns (number of terms,) and (p, C).
    """
    # What overwrites logits comes last, for then it may have those that are there.
    order = sorted(range(len(terms)), key=lambda number: terms[number][1].overwrites)
    values = dict[int, Tensor]()
    together: Tensor | None = None
    for number in order:
        weight, term = terms[number]
        is_last = number == order[-1]
        values[number], gradient = term.compare(logits, places, spare=spare and is_last)
        place, slope = logits if spare and is_last else gradient, term.slope * weight
        if together is None:
            together = torch.mul(gradient, slope, out=place)
        elif isinstance(slope, float):
            together = torch.add(together, gradient, alpha=slope, out=place)
        else:
            together = torch.add(together, gradient.mul_(slope), out=place)
    assert together is not None, "no losses to compare with"
    return _sums([values[number] for number in range(len(terms))], terms), together


def _sums(values: Sequence[Tensor], terms: Sequence[Weighted]) -> Tensor:
    """Add up the values of each term over positions. Shapes: values (p,); returns (terms,)."""
    sums = torch.stack(list(values)).sum(1)
    factors = [term.factor for _, term in terms]
    numbers = tuple(factor for factor in factors if isinstance(factor, float))
    if len(numbers) == len(factors):
        return sums * constants(numbers, sums)
    return sums * torch.stack([torch.as_tensor(factor).to(sums) for factor in factors])
