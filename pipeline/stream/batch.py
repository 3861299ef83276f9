"""One batch as a student gets it, and how the pieces that it is made of come together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.samples import SampleBatch, Samples, positions_of
from pipeline.targets import (
    STATISTICS,
    Basis,
    MixedLabels,
    Mixture,
    PseudoLabels,
    Targets,
    TargetSpec,
    decode,
)

Fields = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Stored:
    """Targets as they lie in a cache, in as few bytes: most of what a batch of text costs is to
    widen them. `statistics` are those that lie elsewhere, `asked` the names of all that are wanted.

    Shapes: fields, of `target_fields`, (P, ...).
    """

    spec: TargetSpec
    fields: Mapping[str, Tensor]
    basis: Basis | None
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    asked: tuple[str, ...] = STATISTICS

    def decode(self) -> Targets:
        """Widen them."""
        arrays = {name: each.numpy() for name, each in self.fields.items()}
        found = decode(self.spec, arrays, self.basis, self.asked)
        return replace(found, statistics={**found.statistics, **self.statistics})


@dataclass(frozen=True)
class Batch:
    """Samples with what the teacher said of them.

    Shapes: inputs (B, ...); labels (P,), with -1 for none, two each where samples are mixed; each
    feature over the B rows or the P positions. An image has one position, a text one a token.
    """

    ids: list[str]
    inputs: Tensor
    labels: Tensor | MixedLabels
    # Of one teacher as they lie there, or made already: those of several are a mixture.
    stored: Stored | None = None
    made: Targets | Mixture | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    # Where there is a table of them.
    pseudo_labels: PseudoLabels | None = None

    @cached_property
    def targets(self) -> Targets | Mixture | None:
        """The soft targets, over the P positions of the B rows; None where there are none."""
        return self.made or (self.stored.decode() if self.stored else None)


def concatenate(gathered: Sequence[Fields]) -> Fields:
    """Join the fields of a batch's pieces; most batches lie in one window and are one piece."""
    first, *others = gathered
    if not others:
        return first
    return {name: np.concatenate([each[name] for each in gathered]) for name in first}


def labels_of(samples: Samples, read: SampleBatch) -> Tensor | MixedLabels:
    """Give the labels of samples that were read. Shapes: (P,), two each where they are mixed."""
    if not read.mixed:
        return as_tensor(positions_of(samples, read).labels)
    own, others, shares = read.labels, read.mixed.labels, read.mixed.shares
    return MixedLabels(as_tensor(own), as_tensor(others), as_tensor(shares))


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Share an array's memory, or copy it where torch must not write to it."""
    if not (array.flags.c_contiguous and array.flags.writeable):
        array = array.copy()
    return torch.from_numpy(array)
