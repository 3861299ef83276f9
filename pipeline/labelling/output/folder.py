"""The folder that pseudo-labels lie in: its summary, and whether it may be written to."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import CacheError

SUMMARY_FILE, LOCK_FILE = "summary.json", ".lock"


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Make a folder, if need be, and keep a second process out of it while something is written.

    One in which nothing was written is removed again.

    Raises: CacheError if another process is at work there, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise CacheError(
            f"{folder}: cannot write there: {error.strerror}. Allow this user to write, or name "
            "another folder with --set pseudo_labels.path=..."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CacheError(
                f"{folder}: another process is making these pseudo-labels. Wait for it, or name "
                "another folder with --set pseudo_labels.path=..."
            ) from error
        try:
            yield
        finally:
            if os.listdir(folder) == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                folder.rmdir()


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write the summary last: where it is, all is there.

    Raises: CacheError if the disk refuses.
    """
    partial = folder / f".{SUMMARY_FILE}.partial"
    try:
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder / SUMMARY_FILE)
    except OSError as error:
        raise CacheError(f"{folder}: cannot be written: {error.strerror}.") from error


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read the summary of a folder, if there is one."""
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def refuse_strangers(folder: Path, known: Sequence[str]) -> None:
    """Refuse a folder that holds other things than pseudo-labels.

    Raises: CacheError naming some of them.
    """
    names = os.listdir(folder) if folder.is_dir() else []
    if foreign := sorted(name for name in names if name not in known and not name.startswith(".")):
        raise CacheError(
            f"{folder}: holds other things ({', '.join(foreign[:5])}). Name an empty folder, or "
            "one that is not there, with --set pseudo_labels.path=..."
        )
