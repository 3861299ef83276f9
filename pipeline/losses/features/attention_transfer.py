"""Where a student looks, against where its teacher does."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from pipeline.errors import TargetError
from pipeline.losses.average import share


def attention_map(features: Tensor, exponent: float) -> Tensor:
    return features.float().abs().pow(exponent).sum(1)


def attention_transfer(
    student_features: Tensor,
    features: Tensor,
    *,
    exponent: float = 2.0,
    convention: str = "code",
    count: Tensor | float | None = None,
) -> Tensor:
    own, theirs = (_ready(each, exponent) for each in (student_features, features))
    if own.shape != theirs.shape:
        size = [min(a, b) for a, b in zip(own.shape[1:], theirs.shape[1:], strict=True)]
        own, theirs = (adaptive_avg_pool2d(each[:, None], size)[:, 0] for each in (own, theirs))
    apart = normalize(own.flatten(1), dim=1) - normalize(theirs.flatten(1), dim=1)
    each = (
        apart.square().mean(1) if convention == "code" else torch.linalg.vector_norm(apart, dim=1)
    )
    return each.sum() * share(len(features) if count is None else count)


def _ready(features: Tensor, exponent: float) -> Tensor:
    if features.ndim not in (3, 4):
        raise TargetError(f"attention_transfer: needs maps; got {tuple(features.shape)}.")
    return attention_map(features, exponent) if features.ndim == 4 else features.float()
