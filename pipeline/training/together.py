"""How several ranks take one step: gradients and running means of all, for each of them.

It knows parameters, buffers and ranks; neither losses nor steps.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.compute import Ranks

# Of gradients that are added up at once: large enough to fill a network, small beside a model.
BUCKET_BYTES = 64 * 2**20


def trained(model: nn.Module) -> list[nn.Parameter]:
    """List the parameters that are learned, in an order that is the same for every rank."""
    return [each for each in model.parameters() if each.requires_grad]


def add_gradients(parameters: Sequence[nn.Parameter], known: Sequence[float], ranks: Ranks) -> None:
    """Give every rank the sum of all gradients; `known` counts the ranks that have one of each.

    A parameter that has none anywhere stays without, for an optimiser would let it decay.
    """
    if ranks.size == 1:
        return
    told = [each for each, count in zip(parameters, known, strict=True) if count]
    for each in told:
        if each.grad is None:
            each.grad = torch.zeros_like(each)
    for bucket in _buckets([each.grad for each in told if each.grad is not None]):
        joined = torch.cat([each.reshape(-1) for each in bucket])
        ranks.add_tensor(joined)
        sums = torch.split(joined, [each.numel() for each in bucket])
        for gradient, summed in zip(bucket, sums, strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut gradients, in order, into lists of one dtype that are not too large together."""
    bucket, size_bytes = list[Tensor](), 0
    for each in gradients:
        is_full = size_bytes + each.nbytes > BUCKET_BYTES
        if bucket and (is_full or each.dtype != bucket[0].dtype):
            yield bucket
            bucket, size_bytes = [], 0
        bucket.append(each)
        size_bytes += each.nbytes
    if bucket:
        yield bucket


@torch.no_grad()
def share_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Average what batch normalisation remembers; of other buffers all take the first rank's.

    Running means are linear in what they are of, so it does not matter how often this is done.
    """
    if ranks.size == 1:
        return
    remembered = [
        buffer
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    for each in remembered:
        total = each.cpu().double()
        ranks.add_tensor(total)
        each.copy_(total / ranks.size)
    known = {id(each) for each in remembered}
    others = [each for each in model.buffers() if id(each) not in known]
    for each, first in zip(others, ranks.hand_out([each.cpu() for each in others]), strict=True):
        each.copy_(first)
