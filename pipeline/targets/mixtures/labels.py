"""Labels that are more than a number: of samples mixed from two, and those that a teacher gave."""

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

    def to(self, device: torch.device) -> "MixedLabels":
        """Move all to a device."""
        return MixedLabels(self.first.to(device), self.second.to(device), self.share.to(device))


@dataclass(frozen=True)
class PseudoLabels:
    """What a teacher called each position, and how much that counts.

    Shapes: labels (P,) int64, -1 for none; weights (P,).
    """

    labels: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "PseudoLabels":
        """Move both to a device."""
        return PseudoLabels(self.labels.to(device), self.weights.to(device))
