"""A folder of a file system as the place of a cache.

What is written lies in `.scratch/` until it is flushed to the disk, and is then renamed.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CacheError
from pipeline.store.places import locks
from pipeline.store.places.disk import (
    disk_errors,
    expect_files,
    files_below,
    map_file,
    read_file,
    read_range,
    remove,
    replace_synced,
    sync_folder,
    sync_tree,
    write_blocks,
    write_files,
    write_synced,
)
from pipeline.store.places.place import SCRATCH, Content


@dataclass(frozen=True)
class Folder:
    """A place on a disk that all who write at the same time see, with locks."""

    path: Path

    def __str__(self) -> str:
        """Name it as the user did."""
        return str(self.path)

    @property
    def parallel(self) -> int:
        """One after the other: a disk answers at once."""
        return 1

    def missing(self) -> str | None:
        """Say why nothing can be there, or None if it exists."""
        if self.path.is_dir():
            return None
        return "is a file, not a folder" if self.path.exists() else "there is no such folder"

    def read(self, path: str, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read a whole file. Shapes: returns (size_bytes,)."""
        with _absent():
            return read_file(self.path / path, into)

    def map(self, path: str) -> NDArray[np.uint8]:
        """Map a whole file, read-only. Shapes: returns (size_bytes,)."""
        with _absent():  # an empty file cannot be mapped, and is read
            return map_file(self.path / path)

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Let the system begin to read whole files, if the largest of them has to come."""
        expect_files({f"{self.path}/{path}": size for path, size in sizes.items()})

    def size(self, path: str) -> int | None:
        """Give the size of a file in bytes, None if there is no such file."""
        place = self.path / path
        with disk_errors(self.path):
            return place.stat().st_size if place.is_file() else None

    def sizes(self, folders: Sequence[str]) -> Callable[[str], int | None]:
        """Ask for one at a time, which costs nothing here."""
        return self.size

    def names(self, folder: str = "") -> list[str]:
        """List what lies directly in a folder, sorted."""
        try:
            return sorted(os.listdir(self.path / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self, folder: str) -> list[str]:
        """List all files below a folder by their path relative to it, sorted."""
        return files_below(self.path / folder)

    def check(self) -> None:
        """Refuse a path that can never become a folder of ours."""
        with disk_errors(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise CacheError(
                    f"{self.path}: is a file, not a folder. Name another path for the cache."
                )
            if self.path.exists():
                os.listdir(self.path)  # which this user may not be allowed to

    def begin(self) -> None:
        """Make the folder."""
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def claim(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Lock a name, and let go of it with this process at the latest."""
        with locks.claim(self.path, name, wait=wait) as scratch:
            yield scratch is not None

    def is_claimed_here(self, name: str) -> bool:
        """Whether a thread of this process holds a name."""
        return locks.is_claimed_here(self.path, name)

    def put(self, path: str, content: bytes, *, name: str) -> None:
        """Write a file beside, flush it and rename it over what was there."""
        beside = self.path / SCRATCH / name / "file"
        with disk_errors(self.path):
            write_synced(beside, content)
            self._make(path.rpartition("/")[0])
            replace_synced(beside, self.path / path)

    def publish(self, contents: Sequence[Content], *, name: str) -> None:
        """Write files beside and flush them, then rename what lies in each folder of the place."""
        beside = self.path / SCRATCH / name / "files"
        with disk_errors(self.path):
            write_files(beside, contents)
            sync_tree(beside)
            for folder in sorted({path.partition("/")[0] for path, _ in contents}):
                self._make(folder)
                _move_entries(beside / folder, self.path / folder)

    def _make(self, folder: str) -> None:
        if not (self.path / folder).is_dir():
            (self.path / folder).mkdir(exist_ok=True)
            sync_folder(self.path)

    def remove(self, path: str) -> None:
        """Remove a file or a whole folder, if it is there."""
        with disk_errors(self.path):
            remove(self.path / path)

    def leave(self, path: str, blocks: Iterable[bytes]) -> None:
        """Write a file beside, flush it and rename it."""
        with locks.claim(self.path, f"{path}.new", wait=True) as scratch, disk_errors(self.path):
            assert scratch is not None, "a claim that waits is granted"
            write_blocks(scratch / path, blocks)
            replace_synced(scratch / path, self.path / SCRATCH / path)

    def recall(self, path: str, start: int, stop: int | None) -> bytes | None:
        """Read a range of a file below `.scratch/`; None if there is none."""
        with disk_errors(self.path):
            try:
                return read_range(self.path / SCRATCH / path, start, stop)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def sweep(self) -> None:
        """Remove what dead writers left in `.scratch/`."""
        with disk_errors(self.path):
            locks.sweep(self.path)


@contextmanager
def _absent() -> Iterator[None]:
    try:
        yield
    except (NotADirectoryError, IsADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, error.filename) from error


def _move_entries(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        remove(target / entry.name)
        os.rename(entry, target / entry.name)
    sync_folder(target)
