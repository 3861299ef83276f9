"""Which of a window's rows an epoch has: those of one view, or those that were chosen."""

from dataclasses import dataclass

import numpy as np

from pipeline.stream.order import Order, Rows


@dataclass
class Places:
    """Places among the rows of an epoch, and among all rows of a window of `parts`, in order.

    Those of the window that was asked for last are found once for all of its batches.
    """

    order: Order
    known: tuple[tuple[int, tuple[int, ...]], Rows | None] | None = None

    def of(self, parts: tuple[int, ...], epoch: int) -> Rows | None:
        """Say where the rows of an epoch are; None if they are all. Shapes: returns (rows,)."""
        wanted = epoch, parts
        if self.known is None or self.known[0] != wanted:
            self.known = wanted, self.order.places(parts, epoch)
        return self.known[1]

    def at(self, parts: tuple[int, ...], places: Rows, epoch: int) -> Rows:
        """Turn places among the rows of an epoch into places among all. Shapes: both (n,)."""
        every = self.of(parts, epoch)
        return places if every is None else every[places]

    def copy(self, parts: tuple[int, ...], places: Rows, epoch: int) -> Rows:
        """Number rows that an epoch has several times. Shapes: places (n,), returns (n,)."""
        every = self.of(parts, epoch)
        assert every is not None
        return places - np.searchsorted(every, every[places])
