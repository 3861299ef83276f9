"""What every sample held when the dataset was scanned, in a temporary file: 20 bytes a sample, and
no memory.

The teacher sees a sample long after it was scanned, perhaps on another machine. A checksum tells
whether it is still the same sample, at a quarter of the price of digesting it again.
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

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Give the entries of a range; fewer where it ends. Shapes: returns (stop - start,)."""
        size = (stop - start) * ENTRY.itemsize
        return np.frombuffer(os.pread(self._number, size, start * ENTRY.itemsize), ENTRY)

    def confirm(self, name: str, start: int, batch: SampleBatch) -> NDArray[np.uint8]:
        """Give the digests of the samples from `start` on: see `confirm_samples`."""
        return confirm_samples(self.read(start, start + len(batch.ids)), name, batch)


def confirm_samples(entries: NDArray[Any], name: str, batch: SampleBatch) -> NDArray[np.uint8]:
    """Give the digests of samples, which must be what their entries say that they were.

    Shapes: entries (B,); returns (B, 16).
    Raises: SampleError naming the samples of dataset `name` that were changed since.
    """
    changed = np.flatnonzero(entries["checksum"] != sample_checksums(batch))
    if len(changed):
        named = name_some([batch.ids[place] for place in changed[:5]], len(changed))
        raise SampleError(
            f"{name}: {len(changed)} of {len(batch.ids)} samples changed after they were "
            f"scanned: {named}; nothing may write to the data while the teacher works. "
            "Restore it and start again; finished parts are kept."
        )
    digests: NDArray[np.uint8] = entries["digest"]
    return digests


def sample_checksums(batch: SampleBatch) -> NDArray[np.uint32]:
    """Compute a checksum of each sample's bytes, id and label.

    Shapes: returns (B,).
    """
    contents = content_checksums(batch.inputs).tolist()
    named = zip(contents, batch.ids, batch.labels.tolist(), strict=True)
    each = (zlib.crc32(f"{label} {name}".encode(), content) for content, name, label in named)
    return np.fromiter(each, np.uint32, len(contents))


def content_checksums(inputs: NDArray[Any]) -> NDArray[np.uint32]:
    """Compute the CRC-32 of each sample's bytes, little-endian and in C order.

    Shapes: inputs (B, ...); returns (B,).
    Source: ISO 3309, as in zlib.
    """
    return np.fromiter(map(zlib.crc32, content_views(inputs)), np.uint32, len(inputs))
