"""Several losses of a batch at once: of its logits, or of a student's last states and output layer.

One gradient for all of them: small students take longer to ask for such operations than to do them,
and autograd's nodes, of which each loss would have several, most of all.

A matrix of positions times classes, and its gradient, can be larger than the student. From states
and layer they are made for some positions at a time, value and gradient in one pass, and never
exist whole; the gradient by the output layer adds up in place.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.losses.average import at_least_float32
from pipeline.losses.few.together import few_losses
from pipeline.losses.term import Answer, Places, Term, times, within
from pipeline.targets import FEW_CLASSES, blocks_of

# A loss, and its weight among others.
Weighted = tuple[float, Term]
# What is learned, and the derivative of the weighted sum of all losses by it, of the same shape.
Derivative = tuple[Tensor, Tensor]
# Logits of a chunk: 64 MiB of float32. A product with fewer positions would mostly wait for the
# output layer's weights. A GPU wants few launches instead.
CHUNK_ELEMENTS = {"cpu": 2**24}
CHUNK_ELEMENTS_ELSEWHERE = 2**26
# Of which a chunk would be widened as a whole; what one position is divided by may not fit either.
NARROW = (torch.float16, torch.bfloat16)


def joined_losses(
    logits: Tensor, terms: Sequence[Weighted]
) -> tuple[Sequence[Tensor | float], list[Derivative]]:
    """Give of each loss of logits the sum over positions, and the derivative of the weighted sum of
    all losses by the logits.

    Backpropagation begins with that: autograd is told of no operation of theirs. A loss is its sum
    times its term's factor.

    Shapes: logits (P, C); returns () each, and (P, C), all without a graph.
    """
    assert all(term.positions == len(logits) for _, term in terms), "targets of other positions"
    if few := few_losses(logits, terms):
        return few[0], [(logits, few[1])]
    with torch.no_grad():
        values, gradient = _compare_all(logits, slice(0, len(logits)), terms)
        return [each.sum() for each in values], [(logits, gradient.to(logits.dtype))]


def fused_losses(
    states: Tensor, layer: nn.Linear, terms: Sequence[Weighted]
) -> tuple[list[Tensor], list[Derivative]]:
    """Give the same of the logits `layer(states)`, which are never whole: the derivatives are by
    states, weight and bias, of these what is learned.

    Shapes: states (P, d), layer of (d, C); returns () each, and those of what is learned.
    """
    assert all(term.positions == len(states) for _, term in terms), "targets of other positions"
    learned = _Learned(*map(_zeros, (states, layer.weight, layer.bias)))
    with torch.no_grad():
        dtype = _product_dtype(layer.weight)
        weight, bias = layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype)
        exact = torch.promote_types(states.dtype, torch.float32)
        sums = [states.new_zeros((), dtype=exact) for _ in terms]
        for places in _chunks(states, len(weight)):
            asked = states[places].to(dtype)
            logits = _linear(asked, weight, bias)  # (p, C)
            more, rows = _replace_by_gradient(logits, places, terms)
            sums = [one.add_(other) for one, other in zip(sums, more, strict=True)]
            learned.add(places, times(asked, rows), logits, rows, weight)
    made = zip((states, layer.weight, layer.bias), learned, strict=True)
    return sums, [(each, found) for each, found in made if found is not None]


def _zeros(learned: Tensor | None) -> Tensor | None:
    """Begin a derivative, if it will be asked for."""
    if learned is None or not (learned.requires_grad and torch.is_grad_enabled()):
        return None
    return torch.zeros_like(learned)


def _chunks(states: Tensor, classes: int) -> Iterator[slice]:
    elements = CHUNK_ELEMENTS.get(states.device.type, CHUNK_ELEMENTS_ELSEWHERE)
    size = max(1, elements // classes)
    for start in range(0, len(states), size):
        yield slice(start, min(start + size, len(states)))


class _Learned(NamedTuple):
    """The derivatives by what is learned, which add up chunk by chunk.

    Shapes: states (P, d), weight (C, d), bias (C,).
    """

    states: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    def add(
        self, places: slice, asked: Tensor, logits: Tensor, rows: Tensor | float, weight: Tensor
    ) -> None:
        """Add what some positions have to say: products of the derivative by their logits, which is
        to be multiplied by `rows`, as the asked states were already.

        Shapes: asked (p, d), logits (p, C), rows (p, 1) or (), weight (C, d).
        """
        if self.states is not None:
            self.states[places] = times(logits @ weight, rows)
        if self.weight is not None:
            if self.weight.dtype == logits.dtype:
                self.weight.addmm_(logits.T, asked)
            else:  # chunks add up in the weight's own precision
                self.weight.add_(logits.T @ asked)
        if self.bias is not None:
            if isinstance(rows, Tensor) and rows.ndim:
                self.bias.add_((logits.T @ rows)[:, 0])
            else:
                self.bias.add_(times(logits.sum(0, dtype=self.bias.dtype), rows))


def _linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Make logits, on a CPU in memory that is kept from step to step. All are of one dtype.

    Shapes: states (p, d), weight (C, d), bias (C,); returns (p, C).

    What is larger than 32 MiB malloc gives back to the system: to get it anew, page by page, costs
    a language student a tenth of its step.
    """
    if states.device.type != "cpu":
        return nn.functional.linear(states, weight, bias)
    size = len(states) * len(weight)
    room = getattr(_KEPT, "room", None)  # of each thread its own
    if room is None or room.numel() < size or room.dtype != weight.dtype:
        with torch.inference_mode(False):  # what is made inside cannot be used in training
            room = _KEPT.room = torch.empty(size, dtype=weight.dtype, device=states.device)
    logits: Tensor = room[:size].view(len(states), len(weight))
    if bias is None:
        return torch.mm(states, weight.T, out=logits)
    return torch.addmm(bias, states, weight.T, out=logits)


_KEPT = threading.local()


def _product_dtype(weight: Tensor) -> torch.dtype:
    """Say in what the products with a weight are made: under autocast narrower than it is."""
    kind = weight.device.type
    is_narrow = torch.is_autocast_enabled(kind) and weight.dtype == torch.float32
    return torch.get_autocast_dtype(kind) if is_narrow else weight.dtype


def _replace_by_gradient(
    logits: Tensor, places: slice, terms: Sequence[Weighted]
) -> tuple[list[Tensor], Tensor | float]:
    """Put the derivative of all losses in the place of the logits, but for a factor a position, and
    give the losses' sums and that.

    Shapes: logits (p, C); returns () each, and (p, 1) or ().
    """
    if len(terms) == 1 and logits.dtype not in NARROW:
        ((weight, term),) = terms
        answer, slope = term.compare(logits, places, spare=True), term.slope * weight
        if (found := answer.without_rows()) is not logits:
            logits.copy_(found)
        rows = slope if answer.rows is None else (answer.rows * slope).to(logits.dtype)
        return [answer.value.sum()], rows
    sums = list[Tensor]()
    for block in blocks_of(logits):
        values, _ = _compare_all(logits[block], within(places, block), terms, spare=True)
        more = [each.sum() for each in values]
        sums = [one + other for one, other in zip(sums, more, strict=True)] if sums else more
    return sums, 1.0


def _compare_all(
    logits: Tensor, places: Places, terms: Sequence[Weighted], *, spare: bool = False
) -> tuple[list[Tensor], Tensor]:
    """Apply terms to logits at some of their positions; gives a number a position for each, and the
    derivative of their weighted sum, which lies where the logits were if those are `spare`.

    Shapes: logits (p, C); returns (p,) each, and (p, C).
    """
    # What overwrites logits comes last, for then it may have those that are there.
    order = sorted(range(len(terms)), key=lambda number: terms[number][1].overwrites)
    values = dict[int, Tensor]()
    together: Tensor | None = None
    largest = None
    if len(terms) > 1 and logits.shape[1] >= FEW_CLASSES:  # one pass for all
        largest = at_least_float32(logits.amax(1, keepdim=True))
    for number in order:
        weight, term = terms[number]
        is_last = number == order[-1]
        answer = term.compare(logits, places, spare=spare and is_last, largest=largest)
        values[number] = answer.value
        slope = term.slope * weight
        if together is None:
            together = answer.derivative(slope)
        else:
            place = logits if spare and is_last else together
            together = _add(answer, slope, together, place)
    assert together is not None, "no losses to compare with"
    if spare and together is not logits:
        together = logits.copy_(together)
    return [values[number] for number in range(len(terms))], together


def _add(answer: Answer, slope: Tensor | float, together: Tensor, place: Tensor) -> Tensor:
    """Add one more derivative to others, in one pass. Shapes: together and place (p, C)."""
    # What is for some classes alone comes first, for the place may be narrower.
    together = answer.add_sparse(together, slope)
    if answer.rows is not None:
        return torch.addcmul(together, answer.gradient, answer.rows * slope, out=place)
    if isinstance(slope, Tensor):
        return torch.add(together, answer.gradient.mul_(slope), out=place)
    return torch.add(together, answer.gradient, alpha=slope, out=place)
