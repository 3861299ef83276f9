"""The surest rows of each group, of any number of rows, in memory that depends on the groups alone.

A radix selection: four passes over 4-byte keys, a histogram of one byte in each. Rows of equal keys
are taken in the order in which they come. It knows keys and groups, not what they stand for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]
# Of some rows, in order: the group of each, -1 for none, and its key.
Rows = tuple[Whole, NDArray[np.uint32]]
BYTES = 4


@dataclass(frozen=True)
class Cut:
    """Where each group ends: rows below `keys` are in, and of those at it the first `ties`.

    Shapes: (groups,) each.
    """

    keys: Whole
    ties: Whole


@dataclass
class Taker:
    """What takes the rows that a cut lets in; it must be shown all of them, in order."""

    cut: Cut
    _seen: Whole = field(init=False)

    def __post_init__(self) -> None:
        self._seen = np.zeros_like(self.cut.ties)

    def take(self, groups: Whole, keys: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Mark the rows that are in. Shapes: groups and keys (n,); returns (n,)."""
        ends = self.cut.keys[groups]
        is_in, at_end = (groups >= 0) & (keys < ends), (groups >= 0) & (keys == ends)
        places = np.flatnonzero(at_end)
        is_in[places] = self._ranks(groups[places]) < self.cut.ties[groups[places]]
        return is_in

    def _ranks(self, groups: Whole) -> Whole:
        """Number rows of equal keys within their groups, on from those seen before."""
        order = np.argsort(groups, kind="stable")
        ordered = groups[order]
        within = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
        ranks = np.empty_like(groups)
        ranks[order] = within + self._seen[ordered]
        self._seen += np.bincount(groups, minlength=len(self._seen))
        return ranks


def sortable(numbers: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Turn numbers, none below 0, into keys of the same order. Shapes: (n,), returns (n,)."""
    # Adding 0 turns a negative zero, whose bits are large, into zero.
    return (np.ascontiguousarray(numbers, np.float32) + np.float32(0)).view(np.uint32)


def select(read: Callable[[], Iterator[Rows]], wanted: Whole) -> Cut:
    """Find where each group must end to have as many rows as wanted, or all if it has fewer.

    `read` walks over all rows anew each time.

    Shapes: wanted (groups,).
    """
    prefix, left = np.zeros(len(wanted), np.int64), wanted.astype(np.int64).copy()
    is_whole = np.zeros(len(wanted), bool)
    for level in range(BYTES):
        counts = _count(read, prefix, level)
        sums = counts.cumsum(1)
        if level == 0:
            is_whole = sums[:, -1] <= wanted
        # The byte at which the group is full; the last one if it never is.
        byte = np.minimum((sums <= left[:, None]).sum(1), 255)
        before = np.where(byte > 0, sums[np.arange(len(sums)), byte - 1], 0)
        prefix, left = (prefix << 8) | byte, left - before
    keys, ties = np.where(is_whole, 1 << 32, prefix), np.where(is_whole, 0, left)
    return Cut(keys, ties)


def _count(read: Callable[[], Iterator[Rows]], prefix: Whole, level: int) -> Whole:
    """Count the next byte of the keys that begin as those at the group's end do.

    Shapes: prefix (groups,); returns (groups, 256).
    """
    shift = 8 * (BYTES - 1 - level)
    counts = np.zeros(len(prefix) * 256, np.int64)
    for groups, keys in read():
        high = keys.astype(np.int64) >> shift
        counted = (groups >= 0) & (high >> 8 == prefix[groups])
        counts += np.bincount(groups[counted] * 256 + (high[counted] & 255), minlength=len(counts))
    return counts.reshape(-1, 256)
