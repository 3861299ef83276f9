"""Features as fields: what a module answered for each row or position, and back.

Knows shapes, dtypes and random projections, not which module it was nor what is made of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.keyed import draw_uniform, view_key
from pipeline.store.fields import Field

PREFIX, SCALE = "feature_", "_scale"
# What a feature is kept as -> what holds it: plain Zarr and Parquet know no bfloat16.
HOLDS = {"float16": "float16", "float32": "float32", "bfloat16": "uint16", "int8": "int8"}
LARGEST_INT8 = 127


@dataclass(frozen=True)
class FeatureSpec:
    """How one feature is kept.

    `shape` is that of the module's (reduced) answer for one row or position; of a feature that is
    projected, its channels, the first axis of a map and the last of anything else, become `width`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: str
    width: int | None = None
    seed: int = 0
    reduce: str = "none"
    exponent: float = 2.0

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """The shape of one entry as it is kept."""
        if self.width is None:
            return self.shape
        at = _channel_axis(self.shape)
        return tuple(self.width if axis == at else size for axis, size in enumerate(self.shape))

    @property
    def fields(self) -> tuple[Field, ...]:
        """List the arrays that hold it."""
        name = feature_field(self.name)
        kept = Field(name, HOLDS[self.dtype], self.kept_shape, self.axis)
        if self.dtype != "int8":
            return (kept,)
        return kept, Field(name + SCALE, "float32", (), self.axis)

    def __str__(self) -> str:
        """Say what it takes, such as `map 64 x 7 x 7 float16, 6,272 bytes a row`."""
        shape = " x ".join(map(str, self.shape)) or "1"
        fewer = f" onto {self.width} channels" if self.width else ""
        size, axis = sum(field.entry_bytes for field in self.fields), self.axis.removesuffix("s")
        return f"{self.name} {shape}{fewer} {self.dtype}, {size:,} bytes a {axis}"

    def to_json(self) -> dict[str, Any]:
        """Give the plain values that a cache keeps."""
        return {**asdict(self), "shape": list(self.shape)}


def feature_field(name: str) -> str:
    """Name the field of a feature."""
    return f"{PREFIX}{name}"


def read_specs(about: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, FeatureSpec]:
    """Say how each feature of a cache is kept, by what its plan says."""
    if "features" in about:
        listed = [
            FeatureSpec(**{**each, "shape": tuple(each["shape"])}) for each in about["features"]
        ]
        return {spec.name: spec for spec in listed}
    # Caches that do not say it keep plain vectors.
    found = [each for each in fields if each.name.startswith(PREFIX)]
    specs = [
        FeatureSpec(each.name.removeprefix(PREFIX), each.dtype, each.shape, each.axis)
        for each in found
    ]
    return {spec.name: spec for spec in specs}


def encode_features(
    features: Mapping[str, Tensor], specs: Sequence[FeatureSpec]
) -> dict[str, NDArray[np.generic]]:
    """Make the arrays of features. Shapes: each (n, *shape); returns (n, *kept_shape).

    Raises: TargetError if a feature has another shape than was planned, or a number is not finite
        in the dtype it is kept in.
    """
    arrays = dict[str, NDArray[np.generic]]()
    for spec in specs:
        feature = features[spec.name]
        if tuple(feature.shape[1:]) != spec.shape:
            raise TargetError(
                f"features: '{spec.name}' has shape {tuple(feature.shape[1:])} here, but "
                f"{spec.shape} for the first sample; a cache keeps one shape. Name a module whose "
                "answers are all alike, or a reduce that makes them so, such as 'mean'."
            )
        if spec.width is not None:
            feature = project(feature, spec.width, spec.seed)
        arrays |= _keep(feature, spec)
    return arrays


def decode_feature(spec: FeatureSpec, arrays: Mapping[str, NDArray[np.generic]]) -> Tensor:
    """Read a feature back, in the precision it was kept in (int8 as float32).

    Shapes: returns (n, *kept_shape).
    """
    name = feature_field(spec.name)
    array = arrays[name]
    # torch must not be given what it cannot write to.
    kept = torch.from_numpy(array if array.flags.writeable else array.copy())
    if spec.dtype == "bfloat16":
        return kept.view(torch.bfloat16)
    if spec.dtype == "int8":
        scale = torch.from_numpy(arrays[name + SCALE].copy())
        return kept.float().mul_(scale.view(-1, *(1 for _ in spec.shape)))
    return kept


def project(feature: Tensor, width: int, seed: int) -> Tensor:
    """Project channels onto fewer, by a fixed matrix of random signs over the root of `width`.

    Distances and angles survive, on average exactly, with an error that falls as 1 / sqrt(width).

    Shapes: feature (n, channels, height, width) or (n, ..., channels).
    Source: Achlioptas 2003, "Database-friendly random projections", theorem 1.1.
    """
    at = _channel_axis(tuple(feature.shape[1:])) + 1
    moved = feature.float().movedim(at, -1)
    signs = torch.from_numpy(_signs(moved.shape[-1], width, seed)).to(feature.device)
    projected: Tensor = (moved @ signs / width**0.5).movedim(-1, at)
    return projected


@lru_cache(maxsize=8)
def _signs(channels: int, width: int, seed: int) -> NDArray[np.float32]:
    """Draw the matrix. Shapes: returns (channels, width)."""
    keys = [view_key(seed, "projection", channel, b"projection") for channel in range(channels)]
    return np.where(draw_uniform(keys, width) < 0.5, -1.0, 1.0).astype(np.float32)


def _channel_axis(shape: tuple[int, ...]) -> int:
    return 0 if len(shape) == 3 else len(shape) - 1


def _keep(feature: Tensor, spec: FeatureSpec) -> dict[str, NDArray[np.generic]]:
    name = feature_field(spec.name)
    if spec.dtype == "int8":
        _check_finite(feature, spec)
        wide = feature.float().flatten(1)  # (n, numbers of an entry)
        scale = wide.abs().amax(1) / LARGEST_INT8  # (n,)
        codes = (wide / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round_()
        kept = codes.to(torch.int8).view(feature.shape)
        return {name: kept.cpu().numpy(), name + SCALE: scale.cpu().numpy()}
    kept = feature.to(getattr(torch, spec.dtype))
    _check_finite(kept, spec)
    kept = kept.contiguous().view(torch.uint16) if spec.dtype == "bfloat16" else kept
    return {name: kept.cpu().numpy()}


def _check_finite(kept: Tensor, spec: FeatureSpec) -> None:
    if bad := int((~kept.isfinite()).flatten(1).any(1).sum()):
        wider = "'float32'" if spec.dtype in ("float16", "int8") else "another one"
        raise TargetError(
            f"features: '{spec.name}' is not finite in {spec.dtype} at {bad} of {len(kept)} "
            f"{spec.axis}. Give it dtype = {wider}, or look at the teacher."
        )
