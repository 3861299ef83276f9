"""Features as fields: what a module answered at each position, and back.

Knows names, widths and dtypes, not which module it was nor what is made of it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.store.fields import Field

PREFIX = "feature_"


def feature_field(name: str) -> str:
    """Name the field of a feature."""
    return f"{PREFIX}{name}"


def feature_fields(dtypes: Mapping[str, str], widths: Mapping[str, int]) -> tuple[Field, ...]:
    """List the arrays of features, all over positions. Shapes: of one position (d,)."""
    return tuple(
        Field(feature_field(name), dtype, (widths[name],), "positions")
        for name, dtype in dtypes.items()
    )


def feature_widths(fields: Sequence[Field]) -> dict[str, int]:
    """Find the features among fields, and how wide each is."""
    found = [each for each in fields if each.name.startswith(PREFIX)]
    return {each.name.removeprefix(PREFIX): each.shape[0] for each in found}


def encode_features(
    features: Mapping[str, Tensor], dtypes: Mapping[str, str]
) -> dict[str, NDArray[np.generic]]:
    """Make the arrays of features. Shapes: each (P, d); returns the arrays of `feature_fields`.

    Raises: TargetError if a number is not finite in the dtype it is kept in.
    """
    arrays = {}
    for name, dtype in dtypes.items():
        kept = features[name].to(getattr(torch, dtype))
        if bad := int((~kept.isfinite()).any(1).sum()):
            raise TargetError(
                f"features: '{name}' is not finite in {dtype} at {bad} of {len(kept)} positions. "
                "Give it dtype = 'float32', or look at the teacher."
            )
        arrays[feature_field(name)] = kept.cpu().numpy()
    return arrays


def decode_feature(array: NDArray[np.generic]) -> Tensor:
    """Read a feature back; the array is copied, so it may be read-only. Shapes: (P, d)."""
    return torch.from_numpy(array.copy()).float()
