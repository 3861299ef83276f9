"""A folder that one process at a time works in, and nothing else lies in.

Knows locks and what the system says when it refuses; not what is written there.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError

LOCK_FILE = ".lock"
FULL = {errno.ENOSPC, errno.EDQUOT}
SHOWN_FILES = 5


@dataclass(frozen=True)
class Purpose:
    """What a folder is for, in the words of messages, and how its files are told from others'."""

    # Such as "training this run", "not a run", "run.path" and "it goes on from ...".
    doing: str
    foreign: str
    key: str
    again: str
    is_ours: Callable[[Collection[str]], bool]

    @property
    def elsewhere(self) -> str:
        """Say how another folder is named."""
        return f"with --set {self.key}=..."


def check_folder(folder: Path, purpose: Purpose) -> None:
    """Refuse a file, or a folder that holds other things.

    Raises: PipelineError naming the first five of them.
    """
    if folder.exists() and not folder.is_dir():
        raise PipelineError(
            f"{folder}: is a file, not a folder. Name another path {purpose.elsewhere}"
        )
    names = os.listdir(folder) if folder.is_dir() else []
    # Our own lock and half-written files, left by a kill, begin with a dot.
    named = sorted(name for name in names if not name.startswith("."))
    if named and not purpose.is_ours(named):
        more = len(named) - SHOWN_FILES
        shown = ", ".join(named[:SHOWN_FILES]) + (f" and {more} more" if more > 0 else "")
        raise PipelineError(
            f"{folder}: holds {shown} and is {purpose.foreign}. Name a new folder or an empty one "
            f"{purpose.elsewhere}"
        )


@contextmanager
def hold_folder(folder: Path, purpose: Purpose) -> Iterator[None]:
    """Keep a second process out of a folder; the system lets go when this one ends.

    A folder that was made for nothing is removed again.

    Raises: PipelineError if another process is at work there, the folder holds other things or
        cannot be written, or the disk is full by the time the block writes.
    """
    try:
        check_folder(folder, purpose)
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise PipelineError(
            f"{folder}: cannot write there: {error.strerror}. Allow this user to write, or name "
            f"another folder {purpose.elsewhere}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PipelineError(
                f"{folder}: another process is {purpose.doing}. Wait for it, or name another "
                f"folder {purpose.elsewhere}"
            ) from error
        try:
            with _full_disk(folder, purpose):
                yield
        finally:
            if os.listdir(folder) == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                folder.rmdir()


@contextmanager
def _full_disk(folder: Path, purpose: Purpose) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = shutil.disk_usage(folder).free
        raise PipelineError(
            f"{folder}: disk full ({free / 1e6:.1f} MB left). Free some space and run the same "
            f"command again; {purpose.again}"
        ) from error
