"""What any place that a cache lies in can do; paths are relative to it, with `/`.

Knows neither parts nor plans.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# A path below a place, and what the file there holds.
Content = tuple[str, memoryview]
# Where unfinished work lies; readers ignore it.
SCRATCH = ".scratch"


class Place(Protocol):
    """A folder or the objects below a prefix.

    Raises: CacheError, from everything that writes, if it may not be written or is full.
    """

    @property
    def parallel(self) -> int:
        """How many requests at a time pay off: where each waits its turn, several."""

    def missing(self) -> str | None:
        """Say why nothing can be there, or None if it exists."""

    def read(self, path: str, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read a whole file, into the memory given if its size is the file's.

        Shapes: returns (size_bytes,).
        Raises: FileNotFoundError; CacheError if it may not be read.
        """

    def map(self, path: str) -> NDArray[np.uint8]:
        """Read a whole file without copying it, where that can be done; read-only.

        Shapes: returns (size_bytes,).
        Raises: FileNotFoundError; CacheError if it may not be read.
        """

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Be told that whole files, of so many bytes, are read together soon; nothing happens if
        they cannot be.
        """

    def size(self, path: str) -> int | None:
        """Give the size of a file in bytes, None if there is no such file."""

    def sizes(self, folders: Sequence[str]) -> Callable[[str], int | None]:
        """Give what tells the sizes of many files in these folders, as `size` does."""

    def names(self, folder: str = "") -> list[str]:
        """List what lies directly in a folder, sorted; nothing if it is absent."""

    def files(self, folder: str) -> list[str]:
        """List all files below a folder by their path relative to it, sorted."""

    def check(self) -> None:
        """Find out, leaving nothing there, whether it can never be written."""

    def begin(self) -> None:
        """Make it, if it is not there."""

    def claim(self, name: str, *, wait: bool = False) -> AbstractContextManager[bool]:
        """Keep others from what a name stands for; gives False if one of them holds it.

        With `wait` it waits for them instead.
        """

    def is_claimed_here(self, name: str) -> bool:
        """Whether a thread of this process holds a name."""

    def put(self, path: str, content: bytes, *, name: str) -> None:
        """Write a file that appears whole and stays, by who holds `name`."""

    def publish(self, contents: Sequence[Content], *, name: str) -> None:
        """Write files by who holds `name`, in place of what their folders held before.

        They may appear one by one; all are there when it returns.
        """

    def remove(self, path: str) -> None:
        """Remove a file or all below a folder, if it is there."""

    def leave(self, path: str, blocks: Iterable[bytes]) -> None:
        """Leave a whole file below `.scratch/` to other writers, by who holds its name."""

    def recall(self, path: str, start: int, stop: int | None) -> bytes | None:
        """Read a range of what another writer left, or to its end; None if nothing is there."""

    def sweep(self) -> None:
        """Remove what dead writers left."""
