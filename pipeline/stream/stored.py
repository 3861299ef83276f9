"""Targets as they lie in a cache, until somebody asks what they say.

Those of a batch are widened where they are needed. Of an image they are so few bytes that widening
those of a batch takes longer to ask for than to do: those of a window are widened at once.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.targets import STATISTICS, Basis, Targets, TargetSpec, decode

# Of targets that are widened at once, as they are stored; widened they are up to six times as many.
WHOLE_BYTES = 2**24

Change = Callable[[Tensor], Tensor]
Made = TypeVar("Made")


def cut_tensor(tensor: Tensor, cuts: Sequence[slice]) -> list[Tensor]:
    """Cut a tensor into some that share its memory and know of no other: who saves or sends one
    would save or send all of them.

    Shapes: tensor (n, ...).
    """
    if tensor.dtype is torch.bfloat16:  # numpy has no such numbers
        return [each.view(torch.bfloat16) for each in cut_tensor(tensor.view(torch.int16), cuts)]
    array = tensor.numpy()
    return [torch.from_numpy(array[rows]) for rows in cuts]


def rows_of(rows: slice) -> Change:
    """Make what takes some rows alone, as `cut_tensor` does."""
    return lambda tensor: cut_tensor(tensor, [rows])[0]


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

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.fields.values())

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

    def split(self, cuts: Sequence[slice]) -> "list[Stored]":
        """Cut it into those of some positions each, which share memory."""
        return [self.each(rows_of(each)) for each in cuts]


@dataclass(frozen=True)
class Whole:
    """The targets of a window, widened when they are first asked for, and what followed from them.

    What a loss makes of a teacher's answers is the same at whichever positions it is needed.
    """

    stored: Stored
    derived: dict[Hashable, Any] = field(default_factory=dict)

    @cached_property
    def targets(self) -> Targets:
        return self.stored.decode()


def find_whole(
    arrays: Mapping[str, NDArray[Any]],
    *,
    spec: TargetSpec,
    names: Sequence[str],
    basis: Basis | None,
    asked: tuple[str, ...],
) -> Whole | None:
    """Take the targets of a window for one whole, if all their fields are among the arrays, and few
    enough to be widened at once.
    """
    if not arrays.keys() >= set(names) or sum(arrays[each].nbytes for each in names) > WHOLE_BYTES:
        return None
    tensors = {name: torch.from_numpy(arrays[name]) for name in names}
    return Whole(Stored(spec, tensors, basis, asked=asked))


@dataclass(frozen=True)
class Picked:
    """Targets at some positions of a window. Another process gets these alone, as they are stored.

    Shapes: at (P,), int64.
    """

    whole: Whole
    at: Tensor

    def __len__(self) -> int:
        return len(self.at)

    def __reduce__(self) -> tuple[Callable[[Stored], Stored], tuple[Stored]]:
        return _itself, (self.apart(),)

    @property
    def class_count(self) -> int:
        return self.whole.stored.class_count

    @property
    def size_bytes(self) -> int:
        """Its share of what the window takes."""
        stored = self.whole.stored
        return stored.size_bytes * len(self) // max(1, len(stored))

    @cached_property
    def statistics(self) -> Mapping[str, Tensor]:
        """Those that targets will have. Shapes: each (P,)."""
        statistics = self.whole.stored.statistics
        return {name: each.index_select(0, self.at) for name, each in statistics.items()}

    def decode(self) -> Targets:
        return self.whole.targets[self.at]

    def apart(self) -> Stored:
        """Copy what is stored at these positions, which holds on to no window."""
        at = self.at.numpy()  # torch cannot pick what is of some widths of integers
        return self.whole.stored.each(
            lambda tensor: torch.from_numpy(np.take(tensor.numpy(), at, axis=0))
        )

    def each(self, change: Change) -> Stored:
        """Change every tensor, of a copy."""
        return self.apart().each(change)

    def split(self, cuts: Sequence[slice]) -> "list[Picked]":
        """Cut it into those of some positions each."""
        return [Picked(self.whole, at) for at in cut_tensor(self.at, cuts)]

    def derive(self, key: Hashable, make: Callable[[Targets], Made]) -> Made:
        """Give what follows from all targets of the window, made once."""
        if key not in self.whole.derived:
            self.whole.derived[key] = make(self.whole.targets)
        made: Made = self.whole.derived[key]
        return made


def _itself(stored: Stored) -> Stored:
    return stored
