"""The direction of the student's features against the teacher's; knows no logits."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_embedding_loss

from pipeline.errors import TargetError
from pipeline.losses.average import at_least_float32
from pipeline.losses.features.entries import average


def cosine(
    student_features: Tensor, features: Tensor, *, count: Tensor | float | None = None
) -> Tensor:
    """Turn the student's features to where the teacher's point; how long they are is left alone.

    1 minus the cosine of their angle, averaged over positions (over `count`, if given).

    Shapes: both (P, d); returns ().
    Units:  none, 0 to 2.
    Raises: TargetError if the shapes differ.
    Source: Sanh et al. 2019, arXiv:1910.01108, section 3.
    """
    if student_features.shape != features.shape or features.ndim != 2:
        raise TargetError(
            f"cosine: the student's features have shape {tuple(student_features.shape)}, the "
            f"teacher's {tuple(features.shape)}; they must be equally many vectors and equally "
            "wide. Name a module of the student that is as wide as the teacher's, or set "
            "projection = true."
        )
    own, theirs = at_least_float32(student_features), at_least_float32(features)
    ones = torch.ones(len(features), device=features.device)
    total = cosine_embedding_loss(own, theirs.to(own.dtype), ones, reduction="sum")
    return average(total, features, count)
