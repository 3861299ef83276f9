"""A whole cache, from plan to manifest, told as it goes: what the stages that make one share."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.caching.join import leave_scan
from pipeline.caching.make import make_parts
from pipeline.caching.plan import Work
from pipeline.caching.size import plan_bytes_by_field
from pipeline.progress import progress, say
from pipeline.samples import ContentLog
from pipeline.store import check_folder, check_plan, finish, missing_parts, write_plan

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def make_cache(
    folder: Path,
    plan: Callable[[], Work],
    *,
    stage: str,
    dry_run: bool,
    quiet: bool,
    order: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Make the cache that is planned, or what is missing of it; `stage` names it to people.

    `order` lists the parts in the order they are to be made; the bytes do not depend on it.

    Raises: PipelineError for everything a user can mend, before the long work where it can be
        known.
    """
    started = time.perf_counter()
    check_folder(folder)
    work = plan()
    if dry_run:
        check_plan(work.folder, work.plan)
        return _planned(work)
    write_plan(work.folder, work.plan, work.shape.shared)
    missing = missing_parts(work.folder, work.plan)
    if missing and isinstance(work.contents, ContentLog):
        leave_scan(work.folder, work.plan, work.scan, work.contents)
    if work.features and missing:
        say(f"{work.folder}: {_size_text(_planned(work))}", quiet)
    startup_s = time.perf_counter() - started
    made = _make(work, missing if order is None else order, missing, stage, quiet)
    manifest = finish(work.folder, work.plan)
    elapsed_s = time.perf_counter() - started - startup_s
    return {
        **_planned(work),
        "made_rows": made,
        "size_bytes": manifest["size_bytes"],
        "digest": manifest["digest"],
        "labelled": manifest["statistics"]["labelled"],
        "teacher_right": manifest["statistics"]["teacher_right"],
        "startup_s": round(startup_s, 3),
        "elapsed_s": round(elapsed_s, 3),
    }


def tell_cache(summary: dict[str, Any]) -> str:
    """Say what there is now, and what comes next."""
    head = (
        f"{summary['cache']}: {summary['rows']} rows in {summary['parts']} parts, "
        f"{summary['kept']} of {summary['classes']} classes kept"
    )
    if "size_bytes" not in summary:
        return f"{head}\n  dry run: {_size_text(summary)}; nothing was written"
    made = summary["made_rows"]
    speed = f"{made / max(summary['elapsed_s'], 1e-9):,.0f} rows/s" if made else "nothing to do"
    return (
        f"{head}, {_size(summary['size_bytes'])}\n"
        f"  started in {summary['startup_s']:.1f} s, made {made} rows in "
        f"{summary['elapsed_s']:.1f} s ({speed})\n"
        f"  digest {summary['digest'][:16]}{_accuracy(summary)}"
    )


def _size_text(planned: dict[str, Any]) -> str:
    of_features = planned["feature_bytes"]
    share = f", {_size(of_features)} of them features" if of_features else ""
    total = _size(planned["bytes_a_row"] * planned["rows"])
    return f"about {planned['bytes_a_row']:,} bytes a row, {total} in all{share}"


def _accuracy(summary: dict[str, Any]) -> str:
    """A teacher that is hardly ever right is most often one whose checkpoint was forgotten."""
    if not summary["labelled"]:
        return ""
    share = summary["teacher_right"] / summary["labelled"]
    return f"; the teacher is right on {share:.1%} of {summary['labelled']} labels"


def _make(work: Work, order: Sequence[int], missing: Sequence[int], stage: str, quiet: bool) -> int:
    """Make what is missing; returns the rows made here, for others may make some meanwhile."""
    done = work.plan.rows - _rows_of(work, missing)
    if done:
        say(f"{work.folder}: {done} of {work.plan.rows} rows are there already", quiet)
    if not missing:
        return 0
    made, said = 0, set[str]()

    def wait(text: str) -> None:
        if text not in said:
            say(text, quiet)
        said.add(text)

    with progress(stage, total=work.plan.rows, done=done, quiet=quiet) as advance:

        def count(rows: int) -> None:
            nonlocal made
            made += rows
            advance(rows)

        make_parts(work, order, count, wait)
    return made


def _rows_of(work: Work, parts: Sequence[int]) -> int:
    return sum(len(work.plan.part_range(part)) for part in parts)


def _planned(work: Work) -> dict[str, Any]:
    sizes = plan_bytes_by_field(work.plan, work.samples)
    return {
        "cache": str(work.folder),
        "rows": work.plan.rows,
        "parts": work.plan.part_count,
        "classes": work.spec.class_count,
        "kept": work.spec.k,
        "bytes_a_row": sum(sizes.values()) // work.plan.rows,
        "feature_bytes": sum(sizes[field.name] for spec in work.features for field in spec.fields),
        "fingerprint": work.plan.fingerprint,
    }


def _size(size_bytes: int) -> str:
    power, unit = next(each for each in UNITS if size_bytes >= each[0] or each[0] == 1e3)
    return f"{size_bytes / power:.2f} {unit}"
