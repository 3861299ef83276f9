"""The mean squared difference of two features of one shape."""

from torch import Tensor

from pipeline.errors import TargetError
from pipeline.losses.average import share


def hint(
    student_features: Tensor, features: Tensor, *, count: Tensor | float | None = None
) -> Tensor:
    """Make the student's features those of the teacher.

    Shapes: both (n, ...); returns ().
    Raises: TargetError if the shapes differ.
    Source: Romero et al. 2015, arXiv:1412.6550, equation 3, as RepDistiller computes it.
    """
    if student_features.shape != features.shape:
        raise TargetError(
            f"hint: the student's features have shape {tuple(student_features.shape)}, the "
            f"teacher's {tuple(features.shape)}; they must be equal. Set projection = true."
        )
    each = (student_features.float() - features.float()).square().flatten(1).mean(1)
    return each.sum() * share(len(features) if count is None else count)
