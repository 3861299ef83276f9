"""Copies of files from an object store on a disk nearby: bounded, shared by processes, kept.

A copy is named by the SHA-256 that its record says, so copies serve every cache and run, and are
never out of date. Those used longest ago make room for new ones. Room is set aside before a copy is
written, under a lock, so that all copies together never take more than was allowed.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.store.places.disk import disk_errors, map_file, read_file
from pipeline.store.places.place import Place

LOCK_FILE = ".lock"
PARTIAL = ".partial"
# A copy that was begun so long ago was left by a dead process.
ABANDONED_S = 3600.0


@dataclass(frozen=True)
class Spool:
    """Copies below `folder`, of at most `max_bytes` together."""

    folder: Path
    max_bytes: int

    def find(self, sha256: str) -> Path | None:
        """Give the copy of a file if it is here, which is then the one that was used last.

        Raises: CacheError if this disk refuses.
        """
        copy = self.folder / sha256
        with self._told(), suppress(FileNotFoundError):
            os.utime(copy)
            return copy
        return None

    def make(self, place: Place, path: str, sha256: str, size_bytes: int) -> Path | None:
        """Copy a file here, whose bytes are then those of its digest.

        Gives None if it finds no room, even without all that is not being written at this moment,
        or is not what its digest says.

        Raises: FileNotFoundError or CacheError as the place does; CacheError if this disk refuses.
        """
        if size_bytes > self.max_bytes:
            return None
        content = place.read(path)
        if hashlib.sha256(content.data).hexdigest() != sha256:
            return None
        copy = self.folder / sha256
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f"{sha256}.{os.getpid()}-{time.monotonic_ns()}{PARTIAL}"
            if not self._set_aside(content.nbytes, partial):
                return None
            with partial.open("r+b") as file:  # not emptied, for its size is what was set aside
                file.write(content.data)
            with self.locked():  # who counts files could miss one that gets another name
                os.replace(partial, copy)
        return copy

    def read(
        self, copy: Path, into: NDArray[np.uint8] | None, *, mapped: bool
    ) -> NDArray[np.uint8]:
        """Read or map a copy. Shapes: returns (size_bytes,)."""
        return map_file(copy) if mapped and into is None else read_file(copy, into)

    def drop(self, copy: Path) -> None:
        """Remove a copy that is not what it should be."""
        copy.unlink(missing_ok=True)

    def _told(self) -> AbstractContextManager[None]:
        return disk_errors(self.folder, "copies, in spool.path")

    def _set_aside(self, size_bytes: int, partial: Path) -> bool:
        """Make room, and take it by an empty file of that size, which counts from now on.

        Gives False if copies that are being written now leave too little.
        """
        with self.locked() as lock:
            total = _total_of(lock)
            if total is None or total + size_bytes > self.max_bytes:
                total = self._make_room(size_bytes)
            if total + size_bytes > self.max_bytes:
                return False
            with partial.open("wb") as file:
                file.truncate(size_bytes)
            lock.seek(0)
            lock.truncate()
            lock.write(str(total + size_bytes).encode())
        return True

    def _make_room(self, size_bytes: int) -> int:
        """Remove what was used longest ago, if that helps; gives the bytes that are left."""
        copies = sorted(self._copies(), key=lambda each: each[1].st_mtime)
        old = time.time() - ABANDONED_S
        done = [each for each in copies if each[0].suffix != PARTIAL or each[1].st_mtime < old]
        total = sum(found.st_size for _, found in copies)
        if total - sum(found.st_size for _, found in done) + size_bytes > self.max_bytes:
            return total  # what is being written leaves too little, whatever else went
        for path, found in done:
            if total + size_bytes <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= found.st_size
        return total

    def _copies(self) -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(self.folder) as found:
            for each in found:
                if each.name != LOCK_FILE:
                    with suppress(FileNotFoundError):  # another process made room meanwhile
                        yield Path(each.path), each.stat()

    @contextmanager
    def locked(self) -> Iterator[FileIO]:
        """Keep others from making or naming copies."""
        with open(self.folder / LOCK_FILE, "ab+", buffering=0) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock


def _total_of(lock: FileIO) -> int | None:
    """Read what all copies took when the last one was made; None if nobody wrote it down."""
    lock.seek(0)
    told = lock.read()
    return int(told) if told and told.isdigit() else None
