"""Augmentations of images, each a function of images, keys and settings.

What is drawn for an image follows from its own key. Only sums, products and roundings are made, in
an order that is written down, so that a view is the same bits on every machine: no power, root or
sine, which libraries round differently. Models and caches are not known here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.keyed import draw_uniform, draw_words
from pipeline.samples.views.torchvision import apply_torchvision, torchvision_version

Images = NDArray[Any]
Keys = Sequence[bytes]
# Of ITU-R BT.601: what red, green and blue add to grey.
GREY = (0.299, 0.587, 0.114)
# BLAKE2b takes so many bytes of personalisation.
PURPOSE_BYTES = 16


def augment(
    images: Images,
    keys_of: Callable[[bytes], Keys],
    steps: Sequence[tuple[str, Mapping[str, Any]]],
) -> Images:
    """Apply augmentations one after the other; bytes stay bytes, and floats are not clipped.

    `keys_of` makes a key an image for a purpose, so that no step draws what another drew.

    Shapes: images (B, channels, height, width); returns the same.
    Raises: SampleError if a step does not fit the images, or a library is missing.
    """
    if steps and images.ndim != 4:
        raise SampleError(
            f"views.augment: is of images, (channels, height, width); got {images.shape[1:]}. "
            "Leave it out, or give the data its shape."
        )
    for number, (kind, settings) in enumerate(steps):
        purpose = f"{number}-{kind}".encode()[:PURPOSE_BYTES]
        images = _as(images.dtype, KINDS[kind](images, keys_of(purpose), **settings))
    return images


def library_versions(steps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name the libraries whose code decides what is seen, with their versions."""
    uses = any(step["kind"] == "torchvision" for step in steps)
    return {"torchvision": torchvision_version()} if uses else {}


def crop(images: Images, keys: Keys, *, padding: int, mode: str = "zero") -> Images:
    """Cut a window of the images' own size out of padded ones."""
    height, width = images.shape[2:]
    around = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    padded = np.pad(images, around, mode=PADDINGS[mode])  # type: ignore[call-overload]  # by name
    starts = np.floor(draw_uniform(keys, 2) * (2 * padding + 1)).astype(np.int64)  # (B, 2)
    rows = starts[:, :1] + np.arange(height)  # (B, height)
    columns = starts[:, 1:] + np.arange(width)
    image = np.arange(len(images))[:, None, None]
    # Picked places come first, channels last, where a slice stands between.
    picked = padded[image, :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(picked.transpose(0, 3, 1, 2))


def flip(images: Images, keys: Keys, *, probability: float = 0.5) -> Images:
    """Exchange left and right of some images."""
    chosen = draw_uniform(keys, 1)[:, 0] < probability
    flipped = images.copy()
    flipped[chosen] = images[chosen][..., ::-1]
    return flipped


def shift(images: Images, keys: Keys, *, pixels: float) -> Images:
    """Move images by fractions of pixels, the four neighbours weighed by nearness; zeros outside.

    Source: bilinear interpolation, in the order: along rows, then along columns.
    """
    moves = (2 * draw_uniform(keys, 2) - 1) * pixels  # (B, 2)
    return move(images, moves)


def move(images: Images, moves: NDArray[np.float64]) -> Images:
    """Move images down and right. Shapes: moves (B, 2), in pixels; returns float64."""
    reach = int(np.ceil(np.abs(moves).max(initial=0))) + 1
    around = ((0, 0), (0, 0), (reach, reach), (reach, reach))
    padded = np.pad(images.astype(np.float64), around)
    whole = np.floor(moves)
    rest = (moves - whole)[:, :, None, None, None]  # of a pixel, 0 to 1
    height, width = images.shape[2:]
    starts = reach - whole.astype(np.int64)  # (B, 2)
    rows = starts[:, :1] + np.arange(-1, height)
    columns = starts[:, 1:] + np.arange(-1, width)
    image = np.arange(len(images))[:, None, None]
    near = padded[image, :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)
    lines = near[:, :, 1:] * (1 - rest[:, 0]) + near[:, :, :-1] * rest[:, 0]
    moved: Images = lines[..., 1:] * (1 - rest[:, 1]) + lines[..., :-1] * rest[:, 1]
    return moved


def colour(
    images: Images,
    keys: Keys,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
) -> Images:
    """Multiply brightness, contrast about the image's mean grey, and saturation about each grey."""
    channels = images.shape[1]
    if saturation and channels != 3:
        raise SampleError(
            f"views.augment: saturation is of red, green and blue; the images have {channels} "
            "channels. Leave it out, or read the images with mode = 'RGB'."
        )
    drawn = 2 * draw_uniform(keys, 3) - 1
    factors = 1 + drawn * np.array([brightness, contrast, saturation])  # (B, 3)
    bright, contrasted, saturated = factors.T[:, :, None, None, None]
    made: Images = images.astype(np.float64) * bright
    if contrast:
        # Rounded, for in which order a mean is summed differs between machines.
        mean = np.rint(_grey(made).mean(axis=(2, 3), keepdims=True) * 2**16) / 2**16
        made = made * contrasted + mean * (1 - contrasted)
    if saturation:
        made = made * saturated + _grey(made) * (1 - saturated)
    return made


def noise(images: Images, keys: Keys, *, std: float) -> Images:
    """Add noise that is nearly normal, and never beyond 3.46 of its standard deviations.

    A sum of four uniform numbers, of 16 bits each, which is exact, unlike a logarithm.

    Source: Irwin 1927 and Hall 1927.
    """
    shape = images.shape[1:]
    words = draw_words(keys, int(np.prod(shape)))  # (B, numbers)
    total = np.zeros(words.shape, np.uint64)
    for place in (0, 16, 32, 48):
        total += (words >> np.uint64(place)) & np.uint64(0xFFFF)
    # Each of the four has the variance (2^32 - 1) / 12 and the mean (2^16 - 1) / 2.
    spread = 2.0 * np.sqrt((2.0**32 - 1) / 12)
    normal = (total.astype(np.float64) - 2.0 * (2**16 - 1)) / spread
    whole = 255.0 if images.dtype == np.uint8 else 1.0
    made: Images = images + (std * whole) * normal.reshape(-1, *shape)
    return made


def _grey(images: Images) -> Images:
    """Weigh channels to grey. Shapes: returns (B, 1, height, width)."""
    if images.shape[1] != 3:
        total = images[:, :1]
        for channel in range(1, images.shape[1]):
            total = total + images[:, channel : channel + 1]
        mean: Images = total / images.shape[1]
        return mean
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    grey: Images = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    return grey


def _as(dtype: np.dtype[Any], images: Images) -> Images:
    """Give images their dtype again; bytes are rounded, halves to even, and clipped."""
    if images.dtype == dtype:
        return images
    return (np.clip(np.rint(images), 0, 255) if dtype == np.uint8 else images).astype(dtype)


PADDINGS = {"zero": "constant", "edge": "edge", "reflect": "reflect"}
KINDS: dict[str, Callable[..., Images]] = {
    "crop": crop,
    "flip": flip,
    "shift": shift,
    "colour": colour,
    "noise": noise,
    "torchvision": apply_torchvision,
}
