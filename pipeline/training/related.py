"""Losses between samples, where each rank has its own samples of a batch.

All ranks get the features of all. Each computes the loss of the whole batch and learns from its own
rows of it alone: the gradients of all ranks add up to that of one rank with the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.compute import Ranks
from pipeline.models import Output


@dataclass(frozen=True)
class Related:
    """The features of a whole batch, the student's with a graph for the rank's own entries alone.

    Shapes: own and theirs (n, ...), of all ranks; share is what part of them is this rank's.
    """

    own: Tensor
    theirs: Tensor
    share: float


# By the name of the loss.
AllRelated = dict[str, Related]


def relate(output: Output | None, names: Sequence[tuple[str, Tensor]], ranks: Ranks) -> AllRelated:
    """Gather what losses compare, each named with the teacher's features; all ranks must call it.

    A rank without rows of the batch has no output, and gets nothing.

    Shapes: the teacher's features (rows or positions of this rank, ...).
    """
    found: AllRelated = {}
    for name, theirs in names:
        own = None if output is None else output.features[name]
        parts = ranks.gather((None if own is None else own.detach().cpu(), theirs.cpu()))
        if own is None:
            continue
        students = [part.to(own.device) for part, _ in parts if part is not None]
        ahead = sum(part is not None for part, _ in parts[: ranks.rank])
        students[ahead] = own
        teachers = torch.cat([part for _, part in parts]).to(own.device)
        found[name] = Related(torch.cat(students), teachers, len(own) / len(teachers))
    return found
