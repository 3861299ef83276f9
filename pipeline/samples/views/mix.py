"""Samples mixed in pairs: whose partner is whose, how much of each is seen, and what comes out."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.keyed import draw_uniform

Images = NDArray[Any]
# Shares are multiples of 1 / STEPS: how a library rounds a power cannot be seen in them.
STEPS = 256
# Of the integral that shares are drawn by; its error is far below that of a step.
CELLS = 2**14


def draw_partners(keys: Sequence[bytes], part_rows: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose each row a row of its part, itself among them. Shapes: returns (B,)."""
    places: NDArray[np.int64] = np.floor(draw_uniform(keys, 1)[:, 0] * part_rows).astype(np.int64)
    return places


def mix(
    kind: str, images: Images, partners: Images, keys: Sequence[bytes], alpha: float
) -> tuple[Images, NDArray[np.float32]]:
    """Mix images with their partners; gives what is seen, and the share that is their own.

    Shapes: images and partners (B, channels, height, width); returns the same, and (B,).
    Source: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
    """
    drawn = draw_uniform(keys, 3)
    return MIXES[kind](images, partners, draw_shares(drawn[:, 0], alpha), drawn[:, 1:])


def draw_shares(uniform: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Turn uniform numbers into ones of Beta(alpha, alpha), rounded to whole 256ths.

    Shapes: uniform (B,); returns (B,).
    """
    shares: NDArray[np.float64] = np.searchsorted(_borders(alpha), uniform) / STEPS
    return shares


@lru_cache(maxsize=8)
def _borders(alpha: float) -> NDArray[np.float64]:
    """Integrate the density up to where one 256th is rounded to and the next one.

    Shapes: returns (256,), ascending.
    """
    # Below 1 the density is infinite at 0, but not over s = x^alpha.
    power = min(alpha, 1.0)
    ends = np.linspace(0, 0.5**power, CELLS + 1)
    middle = (ends[1:] + ends[:-1]) / 2
    x = middle ** (1 / power)
    density = x ** (alpha - power) * (1 - x) ** (alpha - 1)
    integral = np.concatenate([[0.0], np.cumsum(density)])
    half = (np.arange(STEPS // 2) + 0.5) / STEPS
    below = 0.5 * np.interp(half**power, ends, integral) / integral[-1]
    return np.concatenate([below, 1 - below[::-1]])


def _mixup(
    images: Images, partners: Images, shares: NDArray[np.float64], _: NDArray[np.float64]
) -> tuple[Images, NDArray[np.float32]]:
    own = shares.reshape(-1, *(1 for _ in images.shape[1:]))
    made = own * images + (1 - own) * partners
    made = np.rint(made) if images.dtype.kind in "ui" else made
    return made.astype(images.dtype), shares.astype(np.float32)


def _cutmix(
    images: Images, partners: Images, shares: NDArray[np.float64], centres: NDArray[np.float64]
) -> tuple[Images, NDArray[np.float32]]:
    """Show a box of the partner; what the border cuts off is the sample's own again."""
    height, width = images.shape[2:]
    sides = np.sqrt(1 - shares)[:, None] * np.array([height, width])  # (B, 2)
    middle = np.floor(centres * np.array([height, width]))
    low = np.clip(np.rint(middle - sides / 2), 0, [height, width])
    high = np.clip(np.rint(middle + sides / 2), 0, [height, width])
    rows, columns = np.arange(height), np.arange(width)
    inside = (rows >= low[:, :1]) & (rows < high[:, :1])  # (B, height)
    across = (columns >= low[:, 1:]) & (columns < high[:, 1:])
    box = inside[:, None, :, None] & across[:, None, None, :]
    covered = (high - low).prod(1) / (height * width)
    return np.where(box, partners, images), (1 - covered).astype(np.float32)


MIXES = {"mixup": _mixup, "cutmix": _cutmix}
