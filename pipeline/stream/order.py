"""Which row comes when: a pure function of (rows, part size, window, seed, epoch).

A seeded permutation of parts, cut into windows of several parts; a seeded permutation of the rows
of each window, which may be grouped by length. No file, worker or rank is known here, so the order
cannot depend on them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

# The last word of the generator's key: 0 orders parts, w + 1 orders the rows of window w.
PARTS = 0


@dataclass(frozen=True)
class Order:
    """The order of every epoch; without a seed, rows come as they lie."""

    rows: int
    rows_per_part: int
    window_parts: int = 8
    seed: int | None = 0

    @property
    def part_count(self) -> int:
        """Number of parts; the last one may be short."""
        return -(-self.rows // self.rows_per_part)

    def parts(self, epoch: int) -> Rows:
        """Order the parts of an epoch. Shapes: returns (part_count,)."""
        parts = np.arange(self.part_count)
        return self._permute(parts, epoch, PARTS)

    def windows(self, epoch: int) -> list[Rows]:
        """Cut an epoch's parts into windows. Shapes: each (at most window_parts,)."""
        parts = self.parts(epoch)
        cuts = range(self.window_parts, len(parts), self.window_parts)
        return np.split(parts, list(cuts)) if len(parts) else []

    def part_rows(self, part: int) -> range:
        """Give the rows of one part."""
        start = part * self.rows_per_part
        return range(start, min(start + self.rows_per_part, self.rows))

    def window_size(self, parts: Rows) -> int:
        """Count the rows of a window."""
        return sum(len(self.part_rows(int(part))) for part in parts)

    def permutation(self, epoch: int, window: int, size: int) -> Rows:
        """Order the rows of a window, as places within it. Shapes: returns (size,)."""
        return self._permute(np.arange(size), epoch, window + 1)

    def group(
        self, places: Rows, lengths: Rows, *, window: int, epoch: int, first: int, batch_size: int
    ) -> Rows:
        """Bring rows of similar length together, and the batches they make in a random order.

        The first `first` rows belong to a batch that began in the window before.

        Shapes: places and lengths (size,); returns (size,).
        """
        if self.seed is None:
            return places
        # Stable, so that equally long rows stay in their random order.
        by_length = places[np.argsort(lengths, kind="stable")]
        cuts = list(range(first, len(places), batch_size)) if first < len(places) else []
        begin, *batches = np.split(by_length, cuts)
        whole = [each for each in batches if len(each) == batch_size]
        # One number for each window, beyond those that order parts and rows.
        purpose = self.part_count + window + 1
        order = self._permute(np.arange(len(whole)), epoch, purpose)
        return np.concatenate([begin, *(whole[each] for each in order), *batches[len(whole) :]])

    def _permute(self, numbers: Rows, epoch: int, purpose: int) -> Rows:
        if self.seed is None:
            return numbers
        words = np.random.SeedSequence([self.seed & (2**64 - 1), epoch, purpose])
        return np.random.Generator(np.random.Philox(words)).permutation(numbers)


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of an epoch that lie in one window; `places` index its rows."""

    window: int
    places: Rows
    ends_batch: bool


# Of the number of a window, its places in order, and how many of them end a batch that was begun.
Regroup = Callable[[int, Rows, int], Rows]


def pieces(
    order: Order,
    *,
    epoch: int,
    batch_size: int,
    first_batch: int,
    regroup: Regroup = lambda window, places, first: places,
) -> Iterator[Piece]:
    """Cut an epoch, from its batch `first_batch` on, into pieces that cross no window or batch
    border.

    Every row of the epoch from there on is in exactly one piece. Windows that lie wholly before
    are not even permuted, so resuming costs nothing.
    """
    start, begins = first_batch * batch_size, 0
    for window, parts in enumerate(order.windows(epoch)):
        size = order.window_size(parts)
        ends = begins + size
        if ends > start:
            places = order.permutation(epoch, window, size)
            places = regroup(window, places, -begins % batch_size)
            at = max(start, begins)
            while at < ends:
                stop = min(ends, (at // batch_size + 1) * batch_size)
                is_end = stop % batch_size == 0 or stop == order.rows
                yield Piece(window, places[at - begins : stop - begins], is_end)
                at = stop
        begins = ends
