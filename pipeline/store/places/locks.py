"""Who works on what: locks that the system drops when their holder dies.

A claim is a lock file `.scratch/NAME.lock` and a folder `.scratch/NAME/` for its holder's
unfinished files. What writers leave each other lies beside them. Knows names, not parts.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import CacheError
from pipeline.store.places.disk import disk_errors, remove
from pipeline.store.places.place import SCRATCH

# A folder that others remove between our two system calls is made again; each turn means that
# another writer got something done.
_ATTEMPTS = 1000
_BUSY = {errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN}
# NFS turns flock into a lock of the whole process, which does not keep two threads apart.
_held: set[Path] = set()
_held_changed = threading.Condition()


@contextmanager
def claim(folder: Path, name: str, *, wait: bool = False) -> Iterator[Path | None]:
    """Hold `name` in the cache at `folder` and yield an empty folder to work in.

    Yields None if another process or thread holds it; with `wait`, waits for them instead.

    Raises: CacheError if the folder cannot be written or its file system has no locks.
    """
    lock = Path(os.path.abspath(folder), SCRATCH, f"{name}.lock")
    with _held_changed:
        is_free = lock not in _held
        if wait:
            is_free = _held_changed.wait_for(lambda: lock not in _held)
        if is_free:
            _held.add(lock)
    if not is_free:
        yield None
        return
    try:
        with disk_errors(folder):
            descriptor = _lock(lock, wait=wait)
        if descriptor is None:
            yield None
            return
        try:
            with disk_errors(folder):
                scratch = _emptied(lock.with_suffix(""))
            yield scratch
        finally:
            with disk_errors(folder):
                _release(lock, descriptor)
    finally:
        with _held_changed:
            _held.discard(lock)
            _held_changed.notify_all()


def is_claimed_here(folder: Path, name: str) -> bool:
    """Whether a thread of this process holds `name`."""
    with _held_changed:
        return Path(os.path.abspath(folder), SCRATCH, f"{name}.lock") in _held


def sweep(folder: Path) -> None:
    """Remove what dead writers left in `.scratch/`, and the folder itself if nobody works in it."""
    root = folder / SCRATCH
    for name in sorted({name.removesuffix(".lock") for name in _names_in(root)}):
        with claim(folder, name):
            pass  # a claim empties its folder when it is taken, and goes away when it is released
    _remove_if_empty(root)


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:  # the last of the others cleared it away
        return []


def _lock(path: Path, *, wait: bool) -> int | None:
    for _ in range(_ATTEMPTS):
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            os.close(descriptor)
            if error.errno in _BUSY:
                return None
            raise CacheError(
                f"{path.parent.parent}: this file system has no locks ({error.strerror}), so "
                "writers cannot be kept apart. Cache into a folder on a local disk and copy it "
                "when it is complete."
            ) from error
        if _is_same_file(path, descriptor):
            return descriptor
        os.close(descriptor)
        if not wait:
            return None
    raise CacheError(f"{path}: removed by others {_ATTEMPTS} times; something else deletes it")


def _open(path: Path) -> int:
    for _ in range(_ATTEMPTS):
        # Not `exist_ok`, which looks whether it is there: by then it may be gone again.
        with suppress(FileExistsError):
            path.parent.mkdir()
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue
    raise CacheError(f"{path}: removed by others {_ATTEMPTS} times; something else deletes it")


def _emptied(folder: Path) -> Path:
    remove(folder)
    folder.mkdir()
    return folder


def _is_same_file(path: Path, descriptor: int) -> bool:
    """Whether the lock still has its name: its last holder removes it before letting go."""
    try:
        there, ours = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _release(lock: Path, descriptor: int) -> None:
    try:
        remove(lock.with_suffix(""))
        lock.unlink(missing_ok=True)
        _remove_if_empty(lock.parent)
    finally:
        os.close(descriptor)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
            raise
