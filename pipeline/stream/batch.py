"""One batch as a student gets it, and how the pieces that it is made of come together.

It begins in host memory. What is compared with a student on another device goes there as narrow as
it lies in a cache: what is copied, and widened here, would be three to six times as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.samples import Names, SampleBatch, Samples, positions_of, spell, tokens_of
from pipeline.stream.stored import Change, Picked, Stored, cut_tensor, rows_of
from pipeline.targets import (
    Bounded,
    MixedLabels,
    Mixture,
    PseudoLabels,
    Targets,
    bounded,
)

Fields = dict[str, NDArray[np.generic]]
# Of a short string in a list.
ID_BYTES = 64


@dataclass(frozen=True)
class Batch:
    """Samples with what the teacher said of them.

    Shapes: inputs (B, ...); labels (P,), with -1 for none, two each where samples are mixed; each
    feature over the B rows or the P positions. An image has one position, a text one a token.
    """

    # As those of samples.
    names: Names
    inputs: Tensor
    labels: Tensor | MixedLabels
    # Of one teacher as they lie there, or made already: those of several are a mixture.
    stored: Stored | Picked | None = None
    made: Targets | Mixture | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    # Where there is a table of them.
    pseudo_labels: PseudoLabels | None = None
    # The lowest and the highest of labels and of pseudo-labels, once somebody asked.
    _bounds: dict[str, tuple[int, int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def ids(self) -> list[str]:
        """The samples' lasting ids, in the order of the rows."""
        return spell(self.names)

    @property
    def row_count(self) -> int:
        """How many samples it has: B."""
        return len(self.names)

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes, but for targets that were made already."""
        tensors = [self.inputs, *self.features.values()]
        stored = 0 if self.stored is None else self.stored.size_bytes
        return ID_BYTES * self.row_count + stored + sum(tensor.nbytes for tensor in tensors)

    @cached_property
    def targets(self) -> Targets | Mixture | None:
        """The soft targets, over the P positions of the B rows; None where there are none."""
        known = self.known
        return known.decode() if isinstance(known, (Stored, Picked)) else known

    @property
    def known(self) -> Stored | Picked | Targets | Mixture | None:
        """The soft targets as they came: to count them, nothing must be widened."""
        return self.stored if self.made is None else self.made

    @property
    def to_match(self) -> Picked | Targets | Mixture | None:
        """The soft targets for those who know what follows from a whole window of them."""
        known = self.known
        return known if isinstance(known, Picked) else self.targets

    @property
    def labels_to_match(self) -> Bounded:
        """The labels for those who would refuse some of them."""
        return self._bounded("labels", self.labels)

    @property
    def pseudo_labels_to_match(self) -> Bounded | None:
        """The pseudo-labels for those who would refuse some of them, where there is a table."""
        pseudo = self.pseudo_labels
        return None if pseudo is None else self._bounded("pseudo_labels", pseudo)

    def _bounded(self, name: str, labels: Tensor | MixedLabels | PseudoLabels) -> Bounded:
        if name not in self._bounds:
            known = bounded(labels)
            self._bounds[name] = known.low, known.high
        return Bounded(labels, *self._bounds[name])

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

    def split(self, sizes: Sequence[int]) -> "list[Batch]":
        """Cut it into batches of so many rows, which share its memory, where a row has one position
        and no targets were made yet.
        """
        cuts = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        changes = list(map(rows_of, cuts))
        labels, stored, pseudo = self.labels, self.stored, self.pseudo_labels
        columns = zip(
            [self.names[rows] for rows in cuts],
            cut_tensor(self.inputs, cuts),
            map(labels.each, changes)
            if isinstance(labels, MixedLabels)
            else cut_tensor(labels, cuts),
            repeat(None) if stored is None else stored.split(cuts),
            repeat(None),
            [{name: of(each) for name, each in self.features.items()} for of in changes],
            repeat(None) if pseudo is None else map(pseudo.each, changes),
            strict=False,
        )
        batches = [Batch(*each) for each in columns]
        known = self.labels_to_match
        if known.low >= 0:  # for what is unlabelled other losses are used, and only where it lies
            for batch in batches:
                batch._bounds["labels"] = known.low, known.high
        return batches

    def _each(self, change: Change) -> "Batch":
        labels, pseudo = self.labels, self.pseudo_labels
        there = replace(
            self,
            labels=labels.each(change) if isinstance(labels, MixedLabels) else change(labels),
            stored=None if self.stored is None else self.stored.each(change),
            features={name: change(tensor) for name, tensor in self.features.items()},
            pseudo_labels=None if pseudo is None else pseudo.each(change),
        )
        there._bounds.update(self._bounds)  # a device is not asked for what is known here
        return there


@dataclass(frozen=True)
class Held:
    """A piece of a batch: samples as they are seen, what is known of them, and their targets where
    those are places of a whole, and not among the fields.
    """

    read: SampleBatch
    fields: Fields
    picked: Picked | None

    def without_rows(self) -> "Held":
        """Keep what all rows have in common: shapes and dtypes."""
        none = slice(0)
        fields = {name: array[none] for name, array in self.fields.items()}
        picked = self.picked and Picked(self.picked.whole, self.picked.at[none])
        return Held(self.read.cut(none), fields, picked)

    def all_fields(self) -> Fields:
        """Give the fields with those of the targets."""
        if self.picked is None:
            return self.fields
        stored = self.picked.apart().fields
        return self.fields | {name: tensor.numpy() for name, tensor in stored.items()}


def concatenate(held: Sequence[Held]) -> tuple[Fields, Picked | None]:
    """Join the fields of a batch's pieces; most batches lie in one window and are one piece."""
    if len(held) == 1:
        return held[0].fields, held[0].picked
    gathered = [each.all_fields() for each in held]
    return {name: np.concatenate([each[name] for each in gathered]) for name in gathered[0]}, None


def labels_of(samples: Samples, read: SampleBatch) -> Tensor | MixedLabels:
    """Give the labels of samples that were read. Shapes: (P,), two each where they are mixed."""
    if not read.mixed:
        # Without tokens a position is a row, and nothing else need be asked, in every batch.
        known = read if tokens_of(samples) is None else positions_of(samples, read)
        return as_tensor(known.labels)
    own, others, shares = read.labels, read.mixed.labels, read.mixed.shares
    return MixedLabels(as_tensor(own), as_tensor(others), as_tensor(shares))


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Share an array's memory, or copy it where torch must not write to it."""
    if not (array.flags.c_contiguous and array.flags.writeable):
        array = array.copy()
    return torch.from_numpy(array)
