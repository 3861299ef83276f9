"""Augmentations of torchvision, each image by random numbers of its own."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.factories import did_you_mean

INSTALL = "pip install 'teacher-logit-cache[torchvision]'"


def apply_torchvision(
    images: NDArray[Any],
    keys: Sequence[bytes],
    *,
    transform: str,
    arguments: Mapping[str, Any] | None = None,
) -> NDArray[Any]:
    """Apply a transform of torchvision.transforms.v2, an image at a time.

    Its generators, torch's and Python's and numpy's, are set by each image's key and afterwards
    what they were. The same version of the library gives the same bits.

    Shapes: images (B, channels, height, width); returns the same.
    Raises: SampleError if the library or the transform is missing, fails, or gives another shape.
    """
    transforms, torch = _import()
    where = f"views.augment: torchvision's {transform}"
    if not hasattr(transforms, transform):
        near = did_you_mean(transform, dir(transforms))
        raise SampleError(f"{where} does not exist in torchvision.transforms.v2{near or '.'}")
    try:
        apply = getattr(transforms, transform)(**(arguments or {}))
        shown = []
        for image, key in zip(torch.from_numpy(np.ascontiguousarray(images)), keys, strict=True):
            with _seeded(torch, int.from_bytes(key[:7], "little")):
                shown.append(apply(image.clone()).numpy())
        made = np.stack(shown)
    # Whatever a transform does not like, it says in its own way.
    except Exception as error:
        raise SampleError(f"{where} failed: {type(error).__name__}: {error}") from error
    if (made.shape, made.dtype) != (images.shape, images.dtype):
        raise SampleError(
            f"{where} gives {made.shape[1:]} {made.dtype} for images of {images.shape[1:]} "
            f"{images.dtype}; a view has the shape and dtype of its sample. Leave it out."
        )
    return made


def torchvision_version() -> str:
    """Tell the library's version.

    Raises: SampleError if it is not installed.
    """
    _import()
    import torchvision

    return str(torchvision.__version__)


def _import() -> tuple[Any, Any]:
    try:
        import torch
        from torchvision.transforms import v2
    # One that was built for another torch fails in a way of its own.
    except (ImportError, RuntimeError) as error:
        raise SampleError(
            f"views.augment: kind 'torchvision' needs a library that is not installed, or not for "
            f"this torch ({error}). Install it: {INSTALL}"
        ) from error
    return v2, torch


@contextmanager
def _seeded(torch: Any, seed: int) -> Iterator[None]:
    """Seed every generator that a transform may use, and then give back what was there."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
