"""What the samples of a window are read from.

Rows of small images cost as much to ask for, one by one, as a student's step has to spare, so those
of a window are read at once where the dataset finds that worth it. Knows no batches.
"""

from pipeline.samples import Samples, hold_samples
from pipeline.stream.windows.window import Rows


class Near:
    """The samples of one window at a time."""

    def __init__(self, samples: Samples, world_size: int, *, is_shuffled: bool) -> None:
        self._all, self._world_size, self._is_shuffled = samples, world_size, is_shuffled
        self._held: tuple[object, Samples] | None = None

    def hold(
        self, parts: tuple[int, ...], epoch: int, indices: Rows, places: Rows | None
    ) -> Samples:
        """Give the samples, of which those of a window of `parts` may be in memory.

        Shapes: indices (rows of the window,); places of those seen in the epoch, None being all.
        """
        if not self._is_shuffled:  # neighbours are read in one call anyhow
            return self._all
        wanted = parts, None if places is None else epoch
        if self._held is None or self._held[0] != wanted:
            self._held = None  # let go of the old ones first
            seen = indices if places is None else indices[places]
            own = len(seen) // self._world_size
            self._held = wanted, hold_samples(self._all, seen, own)
        return self._held[1]
