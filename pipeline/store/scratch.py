"""What writers of a cache leave each other; it goes when the cache is complete.

Knows files and ranges of them, not what they mean.
"""

from collections.abc import Iterable

from pipeline.store.places import Where, as_place


def write_scratch(where: Where, name: str, blocks: Iterable[bytes]) -> None:
    """Leave a whole file to other writers of the cache.

    Raises: CacheError if the place refuses.
    """
    as_place(where).leave(name, blocks)


def read_scratch(where: Where, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
    """Read a range of what another writer left, or all of it; None if nothing is there.

    Raises: CacheError if it may not be read.
    """
    return as_place(where).recall(name, start, stop)
