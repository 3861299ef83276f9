"""What losses of features share: entries that are counted, widened, flattened."""

from torch import Tensor

from pipeline.losses.average import at_least_float32, scaled, share


def count_entries(features: Tensor, **_: object) -> int:
    """Count the rows or positions. Shapes: features (n, ...)."""
    return len(features)


def flatten(features: Tensor) -> Tensor:
    """Make each entry one vector, in float32 or better. Shapes: (n, ...); returns (n, d)."""
    wide = at_least_float32(features)
    return wide.flatten(1) if wide.ndim > 1 else wide[:, None]


def average(total: Tensor, features: Tensor, count: Tensor | float | None) -> Tensor:
    """Divide a sum over entries by their number, or by `count`. Shapes: returns ()."""
    return scaled(total, share(len(features) if count is None else count))
