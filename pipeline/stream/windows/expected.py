"""Parts that are read soon, told to the disk, which then reads some while others are checked."""

from collections.abc import Callable, Sequence
from itertools import islice

from pipeline.store import Cache

# Parts that the disk is told of beyond the one that is read.
AHEAD = 4


def expecting(cache: Cache, parts: Sequence[int], names: Sequence[str]) -> Callable[[], None]:
    """Make what is called before each of some parts is read, by any thread, in their order."""
    later, is_begun = iter(parts), iter([True])

    def expect() -> None:
        count = 1 + AHEAD if next(is_begun, False) else 1
        for part in islice(later, count):
            cache.expect_part(part, names)

    return expect
