"""Which row comes when: a pure function of (rows, part size, window, seed, epoch).

A seeded permutation of parts, cut into windows of several parts; a seeded permutation of the rows
of each window, which may be grouped by length. No file, worker or rank is known here, so the order
cannot depend on them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

# The last word of the generator's key: 0 orders parts, w + 1 orders the rows of window w.
PARTS = 0


class Picks(Protocol):
    """Which rows an epoch has, and how often, where that is not all of them once."""

    @property
    def counts(self) -> Rows:
        """How many rows an epoch has of each part. Shapes: (parts,)."""

    def places(self, rows: range) -> Rows:
        """Say which of some rows these are, in order, repeated. Shapes: returns (count,)."""


@dataclass(frozen=True)
class Order:
    """The order of every epoch; without a seed, rows come as they lie.

    `rows` are those of one view. Where a cache holds several views, each has so many, one view
    after another, and an epoch is of the next view; without a seed always of the first. `picks`
    are for rows of a single view.
    """

    rows: int
    rows_per_part: int
    window_parts: int = 8
    seed: int | None = 0
    views: int = 1
    picks: Picks | None = None
    # The first epoch takes the parts as they lie, for they are still being made in that order.
    rises_first: bool = False

    @cached_property
    def epoch_rows(self) -> int:
        """Number of rows of one epoch."""
        return self.rows if self.picks is None else int(self.picks.counts.sum())

    @property
    def part_count(self) -> int:
        """Number of parts of all views; the last one may be short."""
        return -(-self.rows * self.views // self.rows_per_part)

    def view(self, epoch: int) -> int:
        """Tell which view an epoch is of."""
        return 0 if self.seed is None else epoch % self.views

    def parts(self, epoch: int) -> Rows:
        """Order the parts of an epoch. Shapes: returns (parts with rows of its view,)."""
        first = self.view(epoch) * self.rows
        stop = -(-(first + self.rows) // self.rows_per_part)
        parts = np.arange(first // self.rows_per_part, stop)
        return parts if self.rises_first and epoch == 0 else self._permute(parts, epoch, PARTS)

    def windows(self, epoch: int) -> list[Rows]:
        """Cut an epoch's parts into windows. Shapes: each (at most window_parts,)."""
        parts = self.parts(epoch)
        cuts = range(self.window_parts, len(parts), self.window_parts)
        return np.split(parts, list(cuts)) if len(parts) else []

    def window_after(self, epoch: int, window: int) -> Rows:
        """Give the parts of the window that comes after one, be it of the next epoch."""
        windows = self.windows(epoch)
        return windows[window + 1] if window + 1 < len(windows) else self.windows(epoch + 1)[0]

    def part_rows(self, part: int) -> range:
        """Give the rows of one part, counted over all views."""
        start = part * self.rows_per_part
        return range(start, min(start + self.rows_per_part, self.rows * self.views))

    def rows_of(self, part: int, epoch: int) -> range:
        """Give those rows of a part that belong to an epoch: a part may lie across two views."""
        first, rows = self.view(epoch) * self.rows, self.part_rows(part)
        return range(max(rows.start, first), min(rows.stop, first + self.rows))

    def window_size(self, parts: Rows, epoch: int) -> int:
        """Count the rows of a window that belong to an epoch."""
        if self.picks is not None:
            return int(self.picks.counts[parts].sum())
        return sum(len(self.rows_of(int(part), epoch)) for part in parts)

    def places(self, parts: Sequence[int], epoch: int) -> Rows | None:
        """Say where the rows of an epoch are among all rows of some parts; None if they are all.

        Shapes: returns (window_size,).
        """
        if self.views == 1 and self.picks is None:
            return None
        places, start = [], 0
        for part in parts:
            rows = self.part_rows(part)
            places.append(start + self._places_of(part, epoch))
            start += len(rows)
        return np.concatenate(places)

    def _places_of(self, part: int, epoch: int) -> Rows:
        if self.picks is not None:
            return self.picks.places(self.part_rows(part))
        ours = self.rows_of(part, epoch)
        within = ours.start - self.part_rows(part).start
        return np.arange(within, within + len(ours))

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
    """Consecutive rows of an epoch that lie in one window; `places` index its rows.

    They are rows of batch `number`, which has `batch_rows`, of which `begins` come before them.
    """

    window: int
    places: Rows
    number: int
    batch_rows: int
    begins: int
    ends_batch: bool
    ends_window: bool

    @property
    def is_whole(self) -> bool:
        """Whether it is all of a batch."""
        return self.ends_batch and not self.begins


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
        size = order.window_size(parts, epoch)
        ends = begins + size
        if ends > start:
            places = order.permutation(epoch, window, size)
            places = regroup(window, places, -begins % batch_size)
            at = max(start, begins)
            while at < ends:
                number, before = divmod(at, batch_size)
                stop = min(ends, (number + 1) * batch_size)
                rows = min(batch_size, order.epoch_rows - number * batch_size)
                own, is_end = places[at - begins : stop - begins], before + stop - at == rows
                yield Piece(window, own, number, rows, before, is_end, stop == ends)
                at = stop
        begins = ends
