"""What every sample held when the dataset was scanned, in a temporary file: 20 bytes a sample, and
no memory.

The teacher sees a sample long after it was scanned. A checksum tells whether it is still the same
sample, at a quarter of the price of digesting it again.
"""

import os
import weakref
import zlib
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.samples.batch import DIGEST_BYTES, SampleBatch, content_views, name_some

ENTRY = np.dtype([("digest", np.uint8, (DIGEST_BYTES,)), ("checksum", "<u4")])


class ContentLog:
    """Digest and checksum of each sample that was not skipped, in the order of the dataset."""

    def __init__(self) -> None:
        with TemporaryFile() as file:
            self._number = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._number)

    def add(self, digests: NDArray[np.uint8], checksums: NDArray[np.uint32]) -> None:
        """Note the next samples.

        Shapes: digests (B, 16), checksums (B,).
        Raises: SampleError if the temporary folder is full.
        """
        entries = np.empty(len(digests), ENTRY)
        entries["digest"], entries["checksum"] = digests, checksums
        try:
            with open(self._number, "ab", closefd=False) as file:
                file.write(entries.tobytes())
        except OSError as error:
            raise SampleError(
                f"{gettempdir()}: cannot hold {ENTRY.itemsize} bytes a sample while the data is "
                f"scanned: {error.strerror}. Free some space there, or name another folder in "
                "TMPDIR."
            ) from error

    def confirm(self, name: str, start: int, batch: SampleBatch) -> NDArray[np.uint8]:
        """Give the digests of the samples from `start` on, which must hold what they held.

        Shapes: returns (B, 16).
        Raises: SampleError naming the samples of dataset `name` that were changed since.
        """
        size = len(batch.ids) * ENTRY.itemsize
        content = os.pread(self._number, size, start * ENTRY.itemsize)
        entries = np.frombuffer(content, ENTRY)
        changed = np.flatnonzero(entries["checksum"] != content_checksums(batch.inputs))
        if len(changed):
            named = name_some([batch.ids[place] for place in changed[:5]], len(changed))
            raise SampleError(
                f"{name}: {len(changed)} of {len(batch.ids)} samples changed after they were "
                f"scanned: {named}; nothing may write to the data while the teacher works. "
                "Restore it and start again; finished parts are kept."
            )
        digests: NDArray[np.uint8] = entries["digest"]
        return digests


def content_checksums(inputs: NDArray[Any]) -> NDArray[np.uint32]:
    """Compute the CRC-32 of each sample's bytes, little-endian and in C order.

    Shapes: inputs (B, ...); returns (B,).
    Source: ISO 3309, as in zlib.
    """
    return np.fromiter(map(zlib.crc32, content_views(inputs)), np.uint32, len(inputs))
