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
            near = self._read_near(entry, into)
            content = self._read(path, into) if near is None else near
        except FileNotFoundError as error:
            raise self.fault(path, "is missing") from error
        # Copies are checked when they are made; what is read past the spool never was.
        check = near is None and (self.check or self.spool is not None)
        if problem := _problem(entry, content, check=check):
            raise self.fault(path, problem)
        return content

    def fetch(self, path: str) -> None:
        """See to it that the spool has a copy of a file, and with `check` that it is whole.

        Raises: FileNotFoundError or CacheError as the place does; CacheError if the disk refuses.
        """
        entry, spool = self.entries[path], self.spool
        if not spool:
            return
        copy = spool.find(entry["sha256"])
        if copy and self.check and _problem(entry, spool.read(copy, None, mapped=True), check=True):
            spool.drop(copy)
            copy = None
        if not copy:
            spool.make(self.place, path, entry["sha256"], entry["size_bytes"])

    def _read(self, path: str, into: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        if self.mapped and into is None:
            return self.place.map(path)
        return self.place.read(path, into)

    def _read_near(
        self, entry: FileEntry, into: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8] | None:
        """Read a copy out of the spool; one that is damaged is dropped, and made anew later."""
        spool, sha256 = self.spool, entry["sha256"]
        if not spool:
            return None
        copy = spool.find(sha256) or spool.make(
            self.place, entry["path"], sha256, entry["size_bytes"]
        )
        if not copy:
            return None
        try:
            content = spool.read(copy, into, mapped=self.mapped)
        except FileNotFoundError:  # another process made room meanwhile
            return None
        if _problem(entry, content, check=self.check):  # the disk lost some of it since
            spool.drop(copy)
            return None
        return content

    def fault(self, path: str, what: str) -> CorruptPart:
        """Name the part, the file and what is wrong with it."""
        return CorruptPart(f"{self.place}: {self.where}{path}: {what}")


def _problem(entry: FileEntry, content: NDArray[np.uint8], *, check: bool) -> str | None:
    """Say what is wrong with a file's length, and with `check` with any byte of it."""
    if content.nbytes != entry["size_bytes"]:
        return f"has {content.nbytes} of {entry['size_bytes']} bytes"
    if check and hashlib.sha256(content.data).hexdigest() != entry["sha256"]:
        return "its checksum differs: a byte was changed"
    return None


def describe(path: str, content: memoryview) -> FileEntry:
    """Make the entry that a record has for a file."""
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(path=path, size_bytes=content.nbytes, sha256=digest)
