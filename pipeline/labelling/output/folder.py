"""The folder that pseudo-labels lie in: what belongs there, and its summary."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.holding import Purpose

TABLE_FILE, SUMMARY_FILE, PAGE_FILE = "pseudo_labels.parquet", "summary.json", "page.html"
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
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / SUMMARY_FILE)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read the summary of a folder, if there is one."""
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary
