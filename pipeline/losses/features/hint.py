"""The student's feature against the teacher's, number by number."""

from torch import Tensor

from pipeline.errors import TargetError
from pipeline.losses.features.entries import average, flatten


def hint(
    student_features: Tensor, features: Tensor, *, count: Tensor | float | None = None
) -> Tensor:
    """Make the student's features, projected before, those of the teacher.

    The squared difference, averaged over the numbers of an entry and over entries (over `count`, if
    given). The paper writes half of the squared norm; all published code takes the mean, so that a
    weight means the same for small and large maps.

    Shapes: both (n, ...); returns ().
    Raises: TargetError if the shapes differ.
    Source: Romero et al. 2015, arXiv:1412.6550, equation 3; Tian et al. 2020, RepDistiller.
    """
    if student_features.shape != features.shape:
        raise TargetError(
            f"hint: the student's features have shape {tuple(student_features.shape)}, the "
            f"teacher's {tuple(features.shape)}; they must be equal. Leave projection out, so that "
            "one is learned, or name another module of the student."
        )
    each = (flatten(student_features) - flatten(features)).square().mean(1)  # (n,)
    return average(each.sum(), features, count)
