"""Labels that are more than a number: of samples mixed from two, and those that a teacher gave."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MixedLabels:
    """Two labels a position. Shapes: first, second (P,) int64, -1 for none; share (P,), 0 to 1."""

    first: Tensor
    second: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, places: slice | Tensor) -> "MixedLabels":
        return MixedLabels(self.first[places], self.second[places], self.share[places])

    def each(self, change: Callable[[Tensor], Tensor]) -> "MixedLabels":
        """Change every tensor."""
        return MixedLabels(change(self.first), change(self.second), change(self.share))

    def to(self, device: torch.device) -> "MixedLabels":
        """Move all to a device."""
        return self.each(lambda tensor: tensor.to(device))


@dataclass(frozen=True)
class PseudoLabels:
    """What a teacher called each position, and how much that counts.

    Shapes: labels (P,) int64, -1 for none; weights (P,).
    """

    labels: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def each(self, change: Callable[[Tensor], Tensor]) -> "PseudoLabels":
        """Change both tensors."""
        return PseudoLabels(change(self.labels), change(self.weights))

    def to(self, device: torch.device) -> "PseudoLabels":
        """Move both to a device."""
        return self.each(lambda tensor: tensor.to(device))


@dataclass(frozen=True)
class Bounded:
    """Labels of which the lowest and the highest are known: a device need not be waited for."""

    labels: Tensor | MixedLabels | PseudoLabels
    low: int
    high: int

    def __len__(self) -> int:
        return len(self.labels)


def bounded(labels: Tensor | MixedLabels | PseudoLabels | Bounded) -> Bounded:
    """Find the lowest and the highest label; of none at all, classes that any student has."""
    if isinstance(labels, Bounded):
        return labels
    if not len(labels):
        return Bounded(labels, 0, 0)
    low, high = _all_of(labels).aminmax()
    return Bounded(labels, int(low.item()), int(high.item()))


def _all_of(labels: Tensor | MixedLabels | PseudoLabels) -> Tensor:
    if isinstance(labels, MixedLabels):
        return torch.cat([labels.first, labels.second])
    return labels.labels if isinstance(labels, PseudoLabels) else labels
