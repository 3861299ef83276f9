"""Entries of one size in an unnamed temporary file: what must be at hand, and not in memory.

Knows neither tokens nor scores, nor what else its entries are.
"""

import os
import weakref
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError


class TemporaryArray:
    """Entries in an unnamed temporary file, appended once and read by index ever after."""

    def __init__(self, dtype: np.dtype[Any], folder: Path | None = None) -> None:
        self.dtype = dtype
        self.count = 0
        self._folder = folder
        with TemporaryFile(dir=folder) as file:
            self._number = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._number)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Stay here: in another process the same file number would be another file."""
        raise PipelineError(
            "samples: some of what they are lies in a temporary file of this process, which cannot "
            "be sent to another; let a DataLoader fork its workers: multiprocessing_context='fork'"
        )

    def append(self, entries: NDArray[Any]) -> None:
        """Add entries behind those that are there.

        Raises: PipelineError if the temporary folder is full.
        """
        content = np.ascontiguousarray(entries, self.dtype).data.cast("B")
        try:
            while content:
                content = content[os.write(self._number, content) :]
        except OSError as error:
            elsewhere = "" if self._folder else ", or name another folder in TMPDIR"
            raise PipelineError(
                f"{self._folder or gettempdir()}: cannot hold temporary entries: {error.strerror}. "
                f"Free some space there{elsewhere}."
            ) from error
        self.count += len(entries)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read a range of entries. Shapes: returns (stop - start,)."""
        size = self.dtype.itemsize
        return np.frombuffer(
            os.pread(self._number, (stop - start) * size, start * size), self.dtype
        )
