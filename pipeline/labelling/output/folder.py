"""The folder that pseudo-labels lie in: what belongs there, and its summary."""

import os
from pathlib import Path
from typing import Any

from pipeline.errors import CorruptPart, CorruptTable
from pipeline.holding import Purpose
from pipeline.store.documents import canonical, parse_sealed, sealed

TABLE_FILE, SUMMARY_FILE, PAGE_FILE = "pseudo_labels.parquet", "summary.json", "page.html"
SEAL = "digest"
MEND = "Restore it, or delete the folder and make it again."
PURPOSE = Purpose(
    doing="making these pseudo-labels",
    foreign="no folder of pseudo-labels",
    key="pseudo_labels.path",
    again="it begins anew.",
    is_ours=lambda names: set(names) <= {TABLE_FILE, SUMMARY_FILE, PAGE_FILE},
)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write the summary last: where it is, all is there."""
    partial = folder / f".{SUMMARY_FILE}.partial"
    partial.write_bytes(canonical(sealed(summary, key=SEAL)))
    os.replace(partial, folder / SUMMARY_FILE)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read the summary of a folder, if there is one.

    Raises: CorruptTable if it is not what was written.
    """
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    try:
        return parse_sealed(path.read_bytes(), where=str(path), key=SEAL)
    except CorruptPart as error:
        raise CorruptTable(f"{error}. {MEND}") from error
