"""Groups of rows, wherever they lie, and those of them that were used last.

Knows no files and no columns of its own.
"""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Groups(Protocol):
    """Groups of rows, each read by its number.

    Shapes: starts (G + 1,) for G groups, ascending, the last being the number of rows; files (G,).
    """

    @property
    def paths(self) -> tuple[Path, ...]: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def starts(self) -> NDArray[np.int64]: ...
    @property
    def files(self) -> NDArray[np.int32]: ...

    def load(self, group: int, columns: tuple[str, ...]) -> Any:
        """Read some columns of one group as an Arrow table."""


class HeldRowGroups:
    """The row groups used last, up to a number of bytes; safe to use from several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._largest_bytes = 0
        self._tables: OrderedDict[tuple[int, tuple[str, ...]], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process empty."""
        return HeldRowGroups, (self.limit_bytes,)

    def get(self, groups: Groups, group: int, columns: tuple[str, ...]) -> Any:
        """Give a row group's columns, read anew if they are not held."""
        # Locked while reading, so that two threads never decode the same row group twice.
        with self._lock:
            key = (group, columns)
            if key not in self._tables:
                # Room is made first, so that the peak is the limit and not a row group more.
                self._release(self.limit_bytes - self._largest_bytes)
                table = groups.load(group, columns)
                self._largest_bytes = max(self._largest_bytes, table.nbytes)
                self._release(self.limit_bytes - table.nbytes)
                self._tables[key] = table
                self.held_bytes += table.nbytes
            self._tables.move_to_end(key)
            return self._tables[key]

    def _release(self, allowed_bytes: int) -> None:
        while self._tables and self.held_bytes > allowed_bytes:
            self.held_bytes -= self._tables.popitem(last=False)[1].nbytes
