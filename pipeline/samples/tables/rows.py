"""Rows of an array that lies in a file, one by one, or a stretch of them at once.

They are read with `pread`, so resident memory does not grow with the file, as it would with a
memory map. Knows no formats and no samples.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# A stretch of rows is held up to this size.
HELD_BYTES = 64 * 2**20
# To ask the system for a row takes as long as to read so many bytes in one go.
CALL_BYTES = 8192


class Rows(Protocol):
    """An array whose first axis counts samples, in a file or in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Shapes: indices (B,); returns (B, ...)."""


@dataclass(frozen=True)
class FileRows:
    """Rows of an uncompressed array in a file, in C order from `offset` on."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows, neighbours in one call.

        Shapes: indices (B,); returns (B, ...).
        """
        rows = np.empty((len(indices), *self.shape[1:]), dtype=self.dtype)
        row_bytes = rows[:1].nbytes
        content = rows.reshape(-1).view(np.uint8).data
        firsts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
        lasts = np.append(firsts, len(indices))[1:]
        offsets = self.offset + indices[firsts] * row_bytes
        # Opened anew: a descriptor kept in the dataset could not be pickled, nor closed in time.
        with self.path.open("rb") as file:
            number = file.fileno()
            runs = ((firsts * row_bytes).tolist(), (lasts * row_bytes).tolist(), offsets.tolist())
            for start, stop, offset in zip(*runs, strict=True):
                _read_into(content[start:stop], number, offset)
        return rows


@dataclass(frozen=True)
class HeldRows:
    """Rows of a file, of which some that follow one another are in memory, from `first` on."""

    file: FileRows
    first: int
    held: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.file.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.file.dtype

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Shapes: indices (B,); returns (B, ...)."""
        within = indices - self.first
        if len(within) and not (within.min() >= 0 and within.max() < len(self.held)):
            return self.file[indices]
        return np.take(self.held, within, axis=0)


def hold_rows(
    rows: Rows,
    read: Callable[[Rows, NDArray[np.int64]], NDArray[Any]],
    indices: NDArray[np.int64],
    asked: int,
) -> Rows:
    """Read the stretch in which some rows lie, if it is not large and that takes less time than
    `asked` calls for one of them each.

    Shapes: indices (n,).
    """
    if not isinstance(rows, FileRows) or not len(indices):
        return rows
    first, last = int(indices.min()), int(indices.max()) + 1
    size = (last - first) * math.prod(rows.shape[1:]) * rows.dtype.itemsize
    if size > min(HELD_BYTES, asked * CALL_BYTES):
        return rows
    return HeldRows(rows, first, read(rows, np.arange(first, last)))


def _read_into(place: memoryview, file_number: int, offset: int) -> None:
    """Fill `place` from a file; one `preadv` may return less than was asked."""
    done = os.preadv(file_number, [place], offset)
    while done < len(place):
        more = os.preadv(file_number, [place[done:]], offset + done)
        if not more:
            raise OSError(f"the file ends {len(place) - done:,} bytes early")
        done += more
