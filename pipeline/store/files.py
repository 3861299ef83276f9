"""The files that a record or a plan names: their paths, lengths and digests, and reading them back.

Knows what a file must be, not where it lies: a place reads it.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorruptPart
from pipeline.store.places import Place, Spool


class FileEntry(TypedDict):
    """How a record names one file: path relative to the cache, length, SHA-256."""

    path: str
    size_bytes: int
    sha256: str


class Load(Protocol):
    """Read a whole file of a part by its path in the cache; into the memory given, if it just fits.

    Where files are `mapped` and no memory is given, the bytes are the file's own, and read-only.
    `fault` makes the error to raise for a file that was read but is wrong.

    Shapes: into and the returned bytes (size_bytes,).
    """

    @property
    def mapped(self) -> bool: ...

    def __call__(self, path: str, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]: ...

    def fault(self, path: str, what: str) -> CorruptPart: ...


@dataclass(frozen=True)
class NamedFiles:
    """Files as a record or a plan names them; call it to read one. `where` goes before a path.

    Raises: CorruptPart, from the call, if the file is not what it was named as.
    """

    place: Place
    where: str
    entries: dict[str, FileEntry]
    check: bool
    mapped: bool = False
    spool: Spool | None = None

    def __call__(self, path: str, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read a whole file by its path in the cache.

        Shapes: into and the returned bytes (size_bytes,).
        """
        entry = self.entries.get(path)
        if entry is None:
            raise self.fault(path, "is not named in the record or plan")
        try:
            content = self._read_near(entry, into)
            if content is None or self._problem(entry, content):
                content = self._read(path, into)
        except FileNotFoundError as error:
            raise self.fault(path, "is missing") from error
        if problem := self._problem(entry, content):
            raise self.fault(path, problem)
        return content

    def fetch(self, path: str) -> None:
        """Copy a file into the spool, for whoever reads it next."""
        entry = self.entries[path]
        if self.spool:
            self.spool.fetch(self.place, path, entry["sha256"], entry["size_bytes"])

    def _read(self, path: str, into: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        if self.mapped and into is None:
            return self.place.map(path)
        return self.place.read(path, into)

    def _read_near(
        self, entry: FileEntry, into: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8] | None:
        """Read a copy out of the spool; one that is damaged is dropped, and made anew later."""
        spool, sha256 = self.spool, entry["sha256"]
        copy = spool and spool.fetch(self.place, entry["path"], sha256, entry["size_bytes"])
        if not spool or not copy:
            return None
        try:
            content = spool.read(copy, into, mapped=self.mapped)
        except FileNotFoundError:  # another process made room meanwhile
            return None
        if self._problem(entry, content):  # the disk lost some of it since
            spool.drop(copy)
        return content

    def _problem(self, entry: FileEntry, content: NDArray[np.uint8]) -> str | None:
        if content.nbytes != entry["size_bytes"]:
            return f"has {content.nbytes} of {entry['size_bytes']} bytes"
        if self.check and hashlib.sha256(content.data).hexdigest() != entry["sha256"]:
            return "its checksum differs: a byte was changed"
        return None

    def fault(self, path: str, what: str) -> CorruptPart:
        """Name the part, the file and what is wrong with it."""
        return CorruptPart(f"{self.place}: {self.where}{path}: {what}")


def describe(path: str, content: memoryview) -> FileEntry:
    """Make the entry that a record has for a file."""
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(path=path, size_bytes=content.nbytes, sha256=digest)
