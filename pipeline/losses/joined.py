"""Several losses of the same logits: values and one gradient, computed together.

Small students take longer to ask for such operations than to do them, and autograd's nodes, of
which each loss would have several, most of all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.losses.average import scaled
from pipeline.losses.term import Term

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
        told = torch.stack(values)
    return (logits * gradient).sum(), told


def compare_all_terms(
    logits: Tensor, places: slice, terms: Sequence[Weighted], *, spare: bool = False
) -> tuple[list[Tensor], Tensor]:
    """Apply terms to logits at some of their positions; gives the sum of each, unweighted, and the
    derivative of their weighted sum, which lies where the logits were if those are `spare`.

    Shapes: logits (p, C); returns () for each term, and (p, C).
    """
    # What overwrites logits comes last, for then it may have those that are there.
    order = sorted(range(len(terms)), key=lambda number: terms[number][1].overwrites)
    values = dict[int, Tensor]()
    together: Tensor | None = None
    for number in order:
        weight, term = terms[number]
        is_last = number == order[-1]
        value, gradient = term.compare(logits, places, spare=spare and is_last)
        values[number] = scaled(value.sum(), term.factor)
        place, slope = logits if spare and is_last else gradient, term.slope * weight
        if together is None:
            together = torch.mul(gradient, slope, out=place)
        elif isinstance(slope, float):
            together = torch.add(together, gradient, alpha=slope, out=place)
        else:
            together = torch.add(together, gradient.mul_(slope), out=place)
    assert together is not None, "no losses to compare with"
    return [values[number] for number in range(len(terms))], together
