"""Learned maps."""

import math

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate


class MapProjection(nn.Module):
    def __init__(self, own: tuple[int, ...], theirs: tuple[int, ...]) -> None:
        super().__init__()
        self.size = theirs[1:]
        self.layer = nn.Conv2d(own[0], theirs[0], 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(
            adaptive_avg_pool2d(x, [min(a, b) for a, b in zip(x.shape[2:], self.size, strict=True)])
        )
        return y if tuple(y.shape[2:]) == self.size else interpolate(y, self.size, mode="bilinear")


def make_projection(own: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
    if len(own) == len(theirs) == 3:
        return MapProjection(own, theirs)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(own), math.prod(theirs), bias=False),
        nn.Unflatten(1, theirs),
    )
