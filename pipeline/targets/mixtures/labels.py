"""Labels of samples that are mixed from two: each has two, and a share that is the first one's."""

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
