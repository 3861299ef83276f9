"""One batch as a student gets it, and how the pieces that it is made of come together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.targets import MixedLabels, Mixture, PseudoLabels, Targets

Fields = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Batch:
    """Samples with what the teacher said of them.

    Shapes: inputs (B, ...); labels (P,), with -1 for none, two each where samples are mixed, and
    targets over the P positions of the B rows, or None where there is no cache; each feature over
    the B rows or the P positions. An image has one position, a text one a token.
    """

    ids: list[str]
    inputs: Tensor
    labels: Tensor | MixedLabels
    targets: Targets | Mixture | None
    features: dict[str, Tensor] = field(default_factory=dict)
    # Where there is a table of them.
    pseudo_labels: PseudoLabels | None = None


def concatenate(gathered: Sequence[Fields]) -> Fields:
    """Join the fields of a batch's pieces; most batches lie in one window and are one piece."""
    first, *others = gathered
    if not others:
        return first
    return {name: np.concatenate([each[name] for each in gathered]) for name in first}


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Share an array's memory, or copy it where torch must not write to it."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
