"""How the samples of a batch lie to each other."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from pipeline.losses.average import share


def _dist(x: Tensor) -> Tensor:
    squares = x.square().sum(1)
    apart = (squares[:, None] + squares[None] - 2 * x @ x.T).clamp(min=1e-12).sqrt()
    return apart * (1 - torch.eye(len(x)))


def relational_distance(
    student_features: Tensor, features: Tensor, *, count: Tensor | float | None = None
) -> Tensor:
    own, theirs = _dist(student_features.float().flatten(1)), _dist(features.float().flatten(1))
    own, theirs = own / own[own > 0].mean(), theirs / theirs[theirs > 0].mean()
    n = len(features)
    return smooth_l1_loss(own, theirs) * n * share(n if count is None else count)


def relational_angle(
    student_features: Tensor, features: Tensor, *, count: Tensor | float | None = None
) -> Tensor:
    def angles(x: Tensor) -> Tensor:
        e = normalize(x[None] - x[:, None], dim=2)
        return torch.bmm(e, e.transpose(1, 2))

    n = len(features)
    return (
        smooth_l1_loss(
            angles(student_features.float().flatten(1)), angles(features.float().flatten(1))
        )
        * n
        * share(n if count is None else count)
    )


def similarity(
    student_features: Tensor, features: Tensor, *, count: Tensor | float | None = None
) -> Tensor:
    def gram(x: Tensor) -> Tensor:
        x = x.float().flatten(1)
        return normalize(x @ x.T, dim=1)

    n = len(features)
    return (
        (gram(student_features) - gram(features)).square().sum()
        / n**2
        * n
        * share(n if count is None else count)
    )
