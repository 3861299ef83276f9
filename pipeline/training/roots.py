"""Where backpropagation begins: numbers to lower, or tensors whose derivatives are known already.

Knows neither losses nor batches.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.compute import Ranks
from pipeline.training.together import trained


class Root(NamedTuple):
    """A number and how much it weighs, or a tensor and the derivative of a loss by it.

    Shapes: value (), or (...) as its gradient.
    """

    value: Tensor
    gradient: Tensor | float = 1.0


def backpropagate(roots: Sequence[Root]) -> None:
    """Add to the gradients of all parameters those of the sum of the roots; of none, nothing."""
    values, gradients = _split(roots)
    if values:
        torch.autograd.backward(values, gradients)


def _split(roots: Sequence[Root]) -> tuple[list[Tensor], list[Tensor]]:
    """Leave out what depends on no parameter, as a loss that is told of and weighs nothing."""
    live = [root for root in roots if root.value.requires_grad]
    return [root.value for root in live], [_gradient(root) for root in live]


def _gradient(root: Root) -> Tensor:
    given = root.gradient
    return given if isinstance(given, Tensor) else torch.full_like(root.value, given)


def gradient_norms(
    sums: Sequence[Sequence[Root]], model: nn.Module, ranks: Ranks | None = None
) -> list[float]:
    """Measure the gradient of each sum over all of the student's parameters; the graph is kept.

    Of several ranks the gradients are added up, and all get the norms of that.
    """
    parameters, norms = trained(model), []
    for roots in sums:
        found = _gradients(roots, parameters)
        if ranks and ranks.size > 1:
            found = [_add_up(found, parameters, ranks)]
        squares = [each.detach().float().square().sum() for each in found if each is not None]
        norms.append(float(sum(squares)) ** 0.5)
    return norms


def _gradients(
    roots: Sequence[Root], parameters: Sequence[nn.Parameter]
) -> Sequence[Tensor | None]:
    values, gradients = _split(roots)
    if not values:
        return [None] * len(parameters)
    return torch.autograd.grad(values, parameters, gradients, retain_graph=True, allow_unused=True)


def _add_up(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], ranks: Ranks
) -> Tensor:
    """Add gradients up over ranks, as one vector. Shapes: returns (number of weights,)."""
    pairs = zip(gradients, parameters, strict=True)
    joined = torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs]
    )
    ranks.add_tensor(joined)
    return joined
