"""The folder that pseudo-labels lie in: its summary, and whether it may be written to."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import CacheError

SUMMARY_FILE = "summary.json"


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
