"""From the shape of a student's feature to that of its teacher's, by a map that is learned.

It is trained with the student, saved apart, and never needed once the student is used.
"""

import math

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

Shape = tuple[int, ...]


def make_projection(student_shape: Shape, feature_shape: Shape) -> nn.Module:
    """Make a map between features of any two shapes, those of one entry each.

    Between maps a 1 x 1 convolution, channels x channels weights, with the places averaged down
    before it or interpolated after it; a map that becomes a vector is averaged over its places
    first; all else is one linear layer between all numbers. There are no biases.

    Shapes: from (n, *student_shape) to (n, *feature_shape).
    Source: Romero et al. 2015, arXiv:1412.6550, section 2.2, with the 1 x 1 convolution of Park et
        al. 2019, arXiv:1904.05068, in its published code.
    """
    if len(student_shape) == len(feature_shape) == 3:
        return MapProjection(student_shape, feature_shape)
    if len(student_shape) == 3 and len(feature_shape) == 1:
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(pool, nn.Linear(student_shape[0], feature_shape[0], bias=False))
    if len(student_shape) == len(feature_shape) and student_shape[:-1] == feature_shape[:-1]:
        return nn.Linear(student_shape[-1], feature_shape[-1], bias=False)
    linear = nn.Linear(math.prod(student_shape), math.prod(feature_shape), bias=False)
    return nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, feature_shape))


class MapProjection(nn.Module):
    """From maps to maps, place by place where both have as many."""

    def __init__(self, student_shape: Shape, feature_shape: Shape) -> None:
        super().__init__()
        self.size = feature_shape[1:]
        height, width = map(min, student_shape[1:], self.size)
        self.pooled = (height, width)
        self.layer = nn.Conv2d(student_shape[0], feature_shape[0], 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Shapes: maps (n, channels, height, width) of the student; returns the teacher's."""
        if tuple(maps.shape[2:]) != self.pooled:
            maps = adaptive_avg_pool2d(maps, self.pooled)
        projected: Tensor = self.layer(maps)
        if tuple(projected.shape[2:]) == self.size:
            return projected
        return interpolate(projected, self.size, mode="bilinear", align_corners=False)
