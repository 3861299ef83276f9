"""One batch as a student gets it, and how the pieces that it is made of come together.

It begins in host memory. What is compared with a student on another device goes there as narrow as
it lies in a cache: what is copied, and widened here, would be three to six times as much.
"""

from collections.abc import Callable, Mapping, Sequence
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
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stored:
    """Targets as they lie in a cache, in as few bytes: most of what a batch of text costs is to
    widen them. `beside` are statistics that lie elsewhere, `asked` names all that are wanted.

    Shapes: fields, of `target_fields`, (P, ...).
    """

    spec: TargetSpec
    fields: Mapping[str, Tensor]
    basis: Basis | None
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    asked: tuple[str, ...] = STATISTICS

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    @property
    def class_count(self) -> int:
        return self.spec.class_count

    @cached_property
    def statistics(self) -> Mapping[str, Tensor]:
        """Those that targets will have, computed if they do not lie there. Shapes: each (P,)."""
        if not self.fields.keys() | self.beside.keys() >= set(self.asked):
            return self.decode().statistics
        found = {name: self.fields[name].float() for name in self.asked if name in self.fields}
        return {**found, **self.beside}

    def decode(self) -> Targets:
        """Widen them, where they are."""
        if self._device.type == "cpu":  # numpy widens faster, and copies what is used again
            arrays = {name: each.numpy() for name, each in self.fields.items()}
            found = decode(self.spec, arrays, self.basis, self.asked)
        else:
            basis = self.basis.to(self._device) if self.basis else None
            found = decode(self.spec, self.fields, basis, self.asked)
        return replace(found, statistics={**found.statistics, **self.beside})

    @property
    def _device(self) -> torch.device:
        return next(iter(self.fields.values())).device

    def each(self, change: Change) -> "Stored":
        """Change every tensor but the basis, which all batches share."""
        fields = {name: change(tensor) for name, tensor in self.fields.items()}
        beside = {name: change(tensor) for name, tensor in self.beside.items()}
        return replace(self, fields=fields, beside=beside)


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
        return self.known.decode() if isinstance(self.known, Stored) else self.known

    @property
    def known(self) -> Stored | Targets | Mixture | None:
        """The soft targets as they came: to count them, nothing must be widened."""
        return self.stored if self.made is None else self.made

    def compared_on(self, device: torch.device) -> "Batch":
        """Move all that a student on a device is compared with; inputs stay where they are."""
        if device.type == "cpu":
            return self
        # Not every device knows every width of integers, or may be left to copy by itself.
        is_cuda = device.type == "cuda"
        batch = self if is_cuda else replace(self, stored=None, made=self.targets)
        made = None if batch.made is None else batch.made.to(device, non_blocking=is_cuda)
        moved = batch._each(lambda tensor: tensor.to(device, non_blocking=is_cuda))
        return replace(moved, made=made)

    def to(self, device: torch.device | str) -> "Batch":
        """Move all of it from host memory to where a student is.

        Lightning calls this by itself.
        """
        device = torch.device(device)
        inputs = self.inputs.to(device, non_blocking=device.type == "cuda")
        return replace(self.compared_on(device), inputs=inputs)

    def pin_memory(self) -> "Batch":
        """Copy it to memory that a GPU reads by itself, but for targets that were made already.

        A DataLoader with `pin_memory=True` calls this.
        """
        return replace(self._each(torch.Tensor.pin_memory), inputs=self.inputs.pin_memory())

    def _each(self, change: Change) -> "Batch":
        labels, pseudo = self.labels, self.pseudo_labels
        if isinstance(labels, MixedLabels):
            mixed = (labels.first, labels.second, labels.share)
            changed: Tensor | MixedLabels = MixedLabels(*map(change, mixed))
        else:
            changed = change(labels)
        if pseudo is not None:
            pseudo = PseudoLabels(change(pseudo.labels), change(pseudo.weights))
        return replace(
            self,
            labels=changed,
            stored=None if self.stored is None else self.stored.each(change),
            features={name: change(tensor) for name, tensor in self.features.items()},
            pseudo_labels=pseudo,
        )


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
