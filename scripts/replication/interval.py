"""The mean of a few paired differences, and how far it can be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

# The 97.5 % quantile of Student's t for 1, 2, 3, ... degrees of freedom.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
FEWEST, MOST = 2, len(T_QUANTILES) + 1


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def t_interval(differences: Sequence[float]) -> Interval:
    """Estimate the mean of normal differences, of FEWEST to MOST of them.

    Source: Student 1908, The probable error of a mean.
    """
    count = len(differences)
    assert FEWEST <= count <= MOST, f"{count} differences"
    middle = mean(differences)
    reach = T_QUANTILES[count - 2] * stdev(differences) / math.sqrt(count)
    return Interval(middle, middle - reach, middle + reach)
