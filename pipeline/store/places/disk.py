"""The disk: whole files in, synced files out, and what the system says when it refuses.

Knows paths and bytes, not what they mean.
"""

import errno
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CacheError
from pipeline.store.places.place import Content

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    # A path below a file, below /proc, too long, or a loop of links.
    *(errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),
}


@contextmanager
def disk_errors(folder: Path, what: str = "the cache") -> Iterator[None]:
    """Say in plain words why the system refused to write below `folder`, which is for `what`.

    Raises: CacheError for a full disk or quota, and for paths that may not be written.
    """
    try:
        yield
    except OSError as error:
        path = error.filename or folder
        if error.errno in _FULL:
            raise CacheError(
                f"{folder}: disk full ({_free_space(folder)} left) while writing {path}. Free some "
                "space and run the same command again; nothing is lost, finished parts are kept."
            ) from error
        if error.errno in _REFUSED:
            raise CacheError(
                f"{folder}: cannot write {path}: {error.strerror}. Allow this user to write there, "
                f"or name another folder for {what}."
            ) from error
        raise


def read_file(path: Path, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Read a whole file once, into the memory given if its size is the file's.

    Shapes: returns (size_bytes,).
    Raises: CacheError if this user may not read it.
    """
    try:
        file = path.open("rb", buffering=0)
    except PermissionError as error:
        raise CacheError(f"{path}: may not be read: {error.strerror}. Allow it.") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        content = np.empty(size, np.uint8) if into is None or into.nbytes != size else into
        filled = 0
        while filled < size and (count := file.readinto(content.data[filled:])):
            filled += count
    return content[:filled]


def map_file(path: Path) -> NDArray[np.uint8]:
    """Map a whole file into memory, read-only; pages are read when they are looked at.

    Shapes: returns (size_bytes,).
    Raises: CacheError if this user may not read it.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
                return np.empty(0, np.uint8)
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except PermissionError as error:
        raise CacheError(f"{path}: may not be read: {error.strerror}. Allow it.") from error
    return np.frombuffer(content, np.uint8)


def expect_files(sizes: Mapping[str, int]) -> None:
    """Let the system read files that are read together into its memory, where it can be told to;
    waits for nothing.

    The largest says whether they are there already. The smallest are told first: who reads a small
    file in the meantime waits behind all that the disk was told before.
    """
    if not hasattr(os, "posix_fadvise"):  # macOS
        return
    if sizes and not _is_at_hand(max(sizes, key=sizes.__getitem__)):
        for path in sorted(sizes, key=sizes.__getitem__):
            if not _is_at_hand(path):
                _expect(path)


def _expect(path: str) -> None:
    with suppress(OSError), open(path, "rb", buffering=0) as file:  # told by who reads it
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _is_at_hand(path: str) -> bool:
    """Say whether a file seems to be in memory: then advice takes 60 us, for each page is looked
    at, and changes nothing.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    byte = [bytearray(1)]
    try:  # often some of it is there, so three places are looked at
        with open(path, "rb", buffering=0) as file:
            size, number = os.fstat(file.fileno()).st_size, file.fileno()
            return all(os.preadv(number, byte, size * at // 4, os.RWF_NOWAIT) for at in (0, 2, 3))
    except OSError:  # it would have to wait, or the file system cannot tell
        return False


def read_range(path: Path, start: int, stop: int | None) -> bytes:
    """Read the bytes of a file from `start` up to `stop`, or to its end; fewer if it ends there."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(-1 if stop is None else stop - start)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    write_blocks(path, [content])


def write_blocks(path: Path, blocks: Iterable[bytes]) -> None:
    """Write a file block by block and flush it to the disk."""
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(source: Path, target: Path) -> None:
    """Rename over `target` and flush its folder, so that the new name survives a power cut."""
    os.replace(source, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    _sync(folder)


def _sync(path: Path | str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_files(root: Path, contents: Iterable[Content]) -> None:
    """Write files below `root`, not flushed yet."""
    folders = set[str]()
    for path, content in contents:
        place = os.path.join(root, path)
        folder = os.path.dirname(place)
        if folder not in folders:
            os.makedirs(folder, exist_ok=True)
            folders.add(folder)
        with open(place, "wb", buffering=0) as file:
            _write_all(file, content)


def _write_all(file: FileIO, content: memoryview) -> None:
    content = content.cast("B")
    done = 0
    while done < len(content):  # one write may take less than was given
        done += file.write(content[done:])


def sync_tree(root: Path) -> None:
    """Flush every file and folder below `root` to the disk."""
    for folder, _, names in os.walk(root):
        for name in names:
            _sync(os.path.join(folder, name))
        _sync(folder)


def files_below(root: Path) -> list[str]:
    """List the files below `root` by their path relative to it, sorted; none if it is absent."""
    found = (path for path in root.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(root).as_posix() for path in found)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _free_space(folder: Path) -> str:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "an unknown amount"
    return f"{free / 1e6:.1f} MB"
