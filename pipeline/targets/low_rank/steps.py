"""A number a direction in 4, 2 or 1 bits: how many bits each is worth, and how they lie in bytes.

A direction along which logits vary much is worth more bits than one along which they vary little
(Shannon's reverse water-filling); many directions of one bit say more than few of four.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# How many directions have how many bits each, the most bits first.
Bits = tuple[tuple[int, int], ...]
WIDTHS = (4, 2, 1)
# What rounding leaves of a normal number's variance, and the best step in standard deviations: Max
# 1960, Quantizing for minimum distortion, table II.
DISTORTION = {4: 0.01154, 2: 0.1188, 1: 0.3634}
STEP = {4: 0.3352, 2: 0.9957, 1: 1.596}


@dataclass(frozen=True)
class Steps:
    """`count` directions of so many bits; a code is the step it stands for plus `zero`."""

    bits: int
    count: int
    zero: float

    @property
    def size_bytes(self) -> int:
        """Bytes of a position: each kind of step begins with a byte of its own."""
        return -(-self.bits * self.count // 8)

    @property
    def highest(self) -> int:
        return (1 << self.bits) - 1


def even_steps(rank: int) -> tuple[Steps, ...]:
    """Give every direction 4 bits: 15 steps, the middle one nothing, two codes a byte."""
    return (Steps(4, rank, 8.0),) if rank else ()


def steps_of(bits: Bits) -> tuple[Steps, ...]:
    """Read how many directions have how many bits, as a cache says it, the most bits first."""
    return tuple(Steps(width, count, (2**width - 1) / 2) for width, count in bits)


def share_out(variances: Sequence[float], size_bytes: int) -> Bits:
    """Spend so many bytes on directions of descending variance, so that least of it is lost.

    Every split into whole bytes of each width is tried. Returns: pairs of bits and directions.
    """
    known = np.asarray(variances, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(known)])
    fours, twos = np.meshgrid(
        np.arange(0, 2 * size_bytes + 1, 2), np.arange(0, 4 * size_bytes + 1, 4), indexing="ij"
    )
    ones = 8 * size_bytes - 4 * fours - 2 * twos
    ends = [np.minimum(each, len(known)) for each in (fours, fours + twos, fours + twos + ones)]
    of_4, of_2, of_1 = (sums[np.maximum(end, 0)] for end in ends)
    lost = sums[-1] - of_1 + DISTORTION[4] * of_4
    lost = lost + DISTORTION[2] * (of_2 - of_4) + DISTORTION[1] * (of_1 - of_2)
    # Bytes with nothing to say are not for spending: there must be as many directions.
    lost = np.where((ones >= 0) & (fours + twos + ones <= len(known)), lost, np.inf)
    best = np.unravel_index(np.argmin(lost), lost.shape)
    counts = (int(fours[best]), int(twos[best]), int(ones[best]))
    return tuple((width, count) for width, count in zip(WIDTHS, counts, strict=True) if count)


def most_bytes(directions: int) -> int:
    """Say how many bytes so many directions can fill, each kind of step in whole bytes."""
    return directions // 2


def pack_steps(numbers: Tensor, steps: Sequence[Steps]) -> NDArray[np.uint8]:
    """Round to the nearest step and pack, the first of a byte in its lowest bits.

    Shapes: numbers (P, r), in steps; returns (P, bytes).
    """
    packed, start = [], 0
    for kind in steps:
        codes = numbers[:, start : start + kind.count] + kind.zero
        lowest = kind.zero % 1 == 0  # an odd number of steps leaves one code unused
        codes = codes.round().clamp_(int(lowest), kind.highest).to(torch.uint8)
        each = 8 // kind.bits
        if spare := -kind.count % each:
            codes = torch.nn.functional.pad(codes, (0, spare), value=int(kind.zero))
        together = codes[:, ::each].clone()
        for place in range(1, each):
            together |= codes[:, place::each] << (kind.bits * place)
        packed.append(together)
        start += kind.count
    joined: NDArray[np.uint8] = torch.cat(packed, 1).cpu().numpy()
    return joined


def unpack_steps(packed: Tensor, steps: Sequence[Steps]) -> Tensor:
    """Read the steps back. Shapes: packed (P, bytes), uint8; returns (P, r), float32."""
    found, start = [], 0
    for kind in steps:
        codes = packed[:, start : start + kind.size_bytes]
        each = 8 // kind.bits
        apart = [(codes >> (kind.bits * place)) & kind.highest for place in range(each)]
        whole = torch.stack(apart, 2).flatten(1)[:, : kind.count]
        found.append(whole.float().sub_(kind.zero))
        start += kind.size_bytes
    return torch.cat(found, 1)
