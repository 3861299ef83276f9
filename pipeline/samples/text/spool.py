"""Entries of one size in an unnamed temporary file: what a corpus needs at hand, and not in memory.

Knows neither tokens nor documents.
"""

import os
import weakref
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError


class Spool:
    """Entries in an unnamed temporary file, appended once and read by index ever after."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.count = 0
        with TemporaryFile() as file:
            self._number = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._number)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Stay here: in another process the same file number would be another file."""
        raise SampleError(
            "samples: their tokens lie in a temporary file of this process, which cannot be sent "
            "to another; let a DataLoader fork its workers: multiprocessing_context='fork'"
        )

    def append(self, entries: NDArray[Any]) -> None:
        """Add entries behind those that are there.

        Raises: SampleError if the temporary folder is full.
        """
        content = np.ascontiguousarray(entries, self.dtype).data.cast("B")
        try:
            while content:
                content = content[os.write(self._number, content) :]
        except OSError as error:
            raise SampleError(
                f"{gettempdir()}: cannot hold the tokens of a corpus: {error.strerror}. Free some "
                "space there, or name another folder in TMPDIR."
            ) from error
        self.count += len(entries)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read a range of entries. Shapes: returns (stop - start,)."""
        size = self.dtype.itemsize
        return np.frombuffer(
            os.pread(self._number, (stop - start) * size, start * size), self.dtype
        )
