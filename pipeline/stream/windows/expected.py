"""Parts that are read soon, told to the disk, which then reads some while others are checked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline.store import Cache

# Parts that the disk is told of beyond the one that is read.
AHEAD = 4


@dataclass
class Expected:
    """Parts of a cache in the order in which they will be read, these fields of each.

    Any thread may `tell` before it reads one; each part is told once.
    """

    cache: Cache
    names: Sequence[str]
    later: Iterator[int]
    # The first time some more, which stay ahead from then on.
    count: int = 1 + AHEAD

    def tell(self) -> None:
        """Tell the disk of the next part."""
        count, self.count = self.count, 1
        for part in islice(self.later, count):
            self.cache.expect_part(part, self.names)
