"""Several losses of a batch at once: of its logits, or of a student's last states and output layer.

One gradient for all of them: small students take longer to ask for such operations than to do them,
and autograd's nodes, of which each loss would have several, most of all.

A matrix of positions times classes, and its gradient, can be larger than the student. From states
and layer they are made for some positions at a time, value and gradient in one pass, and never
exist whole; the gradient by the output layer adds up in place.
"""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.losses.average import at_least_float32
from pipeline.losses.term import Answer, Term
from pipeline.targets import FEW_CLASSES

# A loss, and its weight among others.
Weighted = tuple[float, Term]
# Logits of a chunk: 64 MiB of float32. A product with fewer positions would mostly wait for the
# output layer's weights. A GPU wants few launches instead.
CHUNK_ELEMENTS = {"cpu": 2**24}
CHUNK_ELEMENTS_ELSEWHERE = 2**26
# Logits that losses look at together: 2 MiB stay in a core's cache from one operation to the next.
BLOCK_ELEMENTS = {"cpu": 2**19}


def joined_losses(logits: Tensor, terms: Sequence[Weighted]) -> tuple[list[Tensor], Tensor]:
    """Give of each loss of logits the sum over positions, and the derivative of the weighted sum of
    all losses.

    Backpropagation begins with that: autograd is told of no operation of theirs. A loss is its sum
    times its term's factor.

    Shapes: logits (P, C); returns () each, and (P, C), all without a graph.
    """
    assert all(term.positions == len(logits) for _, term in terms), "targets of other positions"
    with torch.no_grad():
        values, gradient = _compare_all(logits, slice(0, len(logits)), terms)
        return [each.sum() for each in values], gradient.to(logits.dtype)


def fused_losses(
    states: Tensor, layer: nn.Linear, terms: Sequence[Weighted]
) -> tuple[Tensor, Tensor]:
    """Add up weighted losses of the logits `layer(states)`; also give each, unweighted.

    Shapes: states (P, d), layer of (d, C); returns () and (number of terms,), without gradient.
    """
    assert all(term.positions == len(states) for _, term in terms), "targets of other positions"
    total: Tensor
    values: Tensor
    total, values = _Fused.apply(  # type: ignore[no-untyped-call]  # torch's own
        states, layer.weight, layer.bias, tuple(terms)
    )
    return total, values


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        terms: tuple[Weighted, ...],
    ) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(states.dtype, torch.float32)
        values = torch.zeros(len(terms), dtype=exact, device=states.device)
        by_states, by_weight = torch.empty_like(states), torch.zeros_like(weight)
        by_bias = None if bias is None else torch.zeros_like(bias)
        dtype = _product_dtype(weight)
        narrow, narrow_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        elements = CHUNK_ELEMENTS.get(states.device.type, CHUNK_ELEMENTS_ELSEWHERE)
        size = max(1, elements // len(weight))
        for start in range(0, len(states), size):
            places = slice(start, min(start + size, len(states)))
            asked = states[places].to(dtype)
            logits = _linear(asked, narrow, narrow_bias)  # (p, C)
            values += _replace_by_gradient(logits, start, terms)
            by_states[places] = logits @ narrow
            if dtype == weight.dtype:
                by_weight.addmm_(logits.T, asked)
            else:  # chunks add up in the weight's own precision
                by_weight += logits.T @ asked
            if by_bias is not None:
                by_bias += logits.sum(0, dtype=by_bias.dtype)
        ctx.save_for_backward(by_states, by_weight, by_bias)
        ctx.mark_non_differentiable(values)
        weighted = [weight * value for (weight, _), value in zip(terms, values, strict=True)]
        return torch.stack(weighted).sum(), values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        gradients = ctx.saved_tensors
        if bool(scale != 1):  # as with a scaled loss; a copy of them all is saved where it is not
            gradients = tuple(each if each is None else each * scale for each in gradients)
        by_states, by_weight, by_bias = gradients
        return by_states, by_weight, by_bias, None


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


def _replace_by_gradient(logits: Tensor, start: int, terms: Sequence[Weighted]) -> Tensor:
    """Put the derivative of all losses in the place of the logits, and give the losses' values.

    Shapes: logits (p, C), of the positions from `start` on; returns (number of terms,).
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    values = torch.zeros(len(terms), dtype=exact, device=logits.device)
    size = max(
        1, BLOCK_ELEMENTS.get(logits.device.type, len(logits) * logits.shape[1]) // logits.shape[1]
    )
    for first in range(0, len(logits), size):
        block = logits[first : first + size]
        places = slice(start + first, start + first + len(block))
        found, _ = _compare_all(block, places, terms, spare=True)
        # Here as in all of this, by numbers: to make a tensor of them, a GPU would be waited for.
        scaled = [value * term.factor for value, (_, term) in zip(found, terms, strict=True)]
        values += torch.stack(scaled).sum(1)
    return values


def _compare_all(
    logits: Tensor, places: slice, terms: Sequence[Weighted], *, spare: bool = False
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
