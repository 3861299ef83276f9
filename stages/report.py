"""`pipeline report`: one HTML page over caches, runs and recipes, to look at and to send on."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.compute import set_threads
from pipeline.progress import progress, say
from pipeline.report.gather import check_place, count_parts, gather, write_page
from pipeline.report.given import find_given
from pipeline.report.page import make_page, need_plots


def run(
    targets: Sequence[str], *, out: str, overrides: Sequence[str] = (), quiet: bool = False
) -> dict[str, Any]:
    """Gather what there is of some caches, runs and recipes, and write the page.

    Raises: PipelineError if there is none, a target is something else, or the page cannot be
        written; CorruptPart if a part of a cache is damaged.
    """
    need_plots()
    check_place(Path(out))
    set_threads(1)  # parts are read side by side, each on one
    given = find_given(targets, overrides)
    for line in given.missing:
        say(f"report: {line}", quiet)
    total = count_parts(given)
    with progress("report", total=total, unit="parts", quiet=quiet or not total) as advance:
        contents = gather(given, os.cpu_count() or 1, advance)
    page, path = make_page(contents), Path(out)
    write_page(path, page)
    return {
        "page": str(path),
        "size_bytes": len(page.encode()),
        "caches": [str(each.cache.path) for each in contents.caches],
        "runs": [str(each.folder) for each in contents.runs],
        "missing": list(contents.missing),
    }


def tell(summary: dict[str, Any]) -> str:
    """Say where the page is and what is on it."""
    counts = [
        f"{len(summary[name])} {name if len(summary[name]) != 1 else name[:-1]}"
        for name in ("caches", "runs")
    ]
    return f"{summary['page']}: {', '.join(counts)}; {summary['size_bytes'] / 1000:,.0f} kB"
