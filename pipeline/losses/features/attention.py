"""Where a student looks, against where its teacher does."""

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from pipeline.errors import TargetError
from pipeline.losses.average import at_least_float32
from pipeline.losses.features.entries import average

# A norm of nothing has no direction; its gradient is 0 there, not a division by 0.
TINY = 1e-24


def attention_map(features: Tensor, exponent: float = 2.0) -> Tensor:
    """Sum the absolute values of all channels to a power.

    The mean over channels, which published code takes, differs by a factor that cancels once maps
    are normalised.

    Shapes: features (n, channels, height, width); returns (n, height, width).
    Source: Zagoruyko and Komodakis 2017, arXiv:1612.03928, section 3.1.
    """
    return at_least_float32(features).abs().pow(exponent).sum(1)


def attention_transfer(
    student_features: Tensor,
    features: Tensor,
    *,
    exponent: float = 2.0,
    convention: str = "code",
    count: Tensor | float | None = None,
) -> Tensor:
    """Let the student look where its teacher does; how strongly is left alone.

    Attention maps are made of features with channels, or are what is given; each is divided by its
    norm, and the larger of two sizes is averaged down to the smaller. With the convention "code"
    the squared difference is averaged over places, as the authors' code does, with "paper" its norm
    is taken, as their text says: some hundred times as much, so weights are not the same. Both are
    averaged over entries (over `count`, if given).

    Shapes: each (n, channels, height, width) or (n, height, width); returns ().
    Raises: TargetError if a feature is no map.
    Source: Zagoruyko and Komodakis 2017, arXiv:1612.03928, equation 2, and its published code.
    """
    own, theirs = _smallest(_map_of(student_features, exponent), _map_of(features, exponent))
    apart = normalize(own.flatten(1), dim=1) - normalize(theirs.flatten(1), dim=1)  # (n, S)
    return average(CONVENTIONS[convention](apart).sum(), features, count)


def _mean_of_squares(apart: Tensor) -> Tensor:
    return apart.square().mean(1)


def _norm(apart: Tensor) -> Tensor:
    return apart.square().sum(1).clamp(min=TINY).sqrt()


CONVENTIONS = {"code": _mean_of_squares, "paper": _norm}


def _map_of(features: Tensor, exponent: float) -> Tensor:
    if features.ndim == 4:
        return attention_map(features, exponent)
    if features.ndim == 3:
        return at_least_float32(features)
    raise TargetError(
        f"attention_transfer: features have shape {tuple(features.shape)}; they must be maps, "
        "(n, channels, height, width), or attention maps, (n, height, width). Name a module whose "
        "answers are maps."
    )


def _smallest(own: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Average both down to the size that neither exceeds. Shapes: (n, height, width) each."""
    if own.shape == theirs.shape:
        return own, theirs
    height, width = map(min, own.shape[1:], theirs.shape[1:])
    size = (height, width)
    return adaptive_avg_pool2d(own, size), adaptive_avg_pool2d(theirs.to(own.dtype), size)
