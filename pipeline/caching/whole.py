"""A whole cache, from plan to manifest, told as it goes: what the stages that make one share."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.caching.join import leave_scan
from pipeline.caching.make import make_parts
from pipeline.caching.plan import Work
from pipeline.caching.size import plan_bytes_by_field
from pipeline.progress import progress, say
from pipeline.samples import ContentLog
from pipeline.store import (
    Plan,
    Where,
    check_folder,
    finish,
    is_planned,
    missing_parts,
    plan_in_turn,
    read_plan,
    write_plan,
)

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True)
class Share:
    """The parts of one of several processes that share a cache: number `index`, from 1, of `of`."""

    index: int
    of: int

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def parts(self, count: int) -> range:
        """Give its parts of so many: neighbours, and of no process more than one above another."""
        return range(count * (self.index - 1) // self.of, count * self.index // self.of)


def make_cache(
    folder: Where,
    plan: Callable[[], Work],
    *,
    stage: str,
    quiet: bool,
    order: Sequence[int] | None = None,
    share: Share | None = None,
) -> dict[str, Any]:
    """Make the cache that is planned, or what is missing of it; `stage` names it to people.

    `order` lists the parts in the order they are to be made; the bytes do not depend on it. With a
    `share` only its parts are made, and the cache is complete once all others have made theirs.

    Raises: PipelineError for everything a user can mend, before the long work where it can be
        known.
    """
    started = time.perf_counter()
    check_folder(folder)
    work = begin_together(folder, plan) if share else begin(plan())
    if work.features and missing_parts(work.folder, work.plan):
        say(f"{work.folder}: {_size_text(planned(work))}", quiet)
    startup_s = time.perf_counter() - started
    parts = range(work.plan.part_count) if order is None else order
    made = _make(work, share.parts(work.plan.part_count) if share else parts, stage, quiet)
    summary = {**planned(work), "made_rows": made, "startup_s": round(startup_s, 3)}
    if share and (left := missing_parts(work.folder, work.plan)):
        summary |= {"part_range": str(share), "missing_parts": len(left)}
    else:
        summary |= finish_cache(work.folder, work.plan)
    return summary | {"elapsed_s": round(time.perf_counter() - started - startup_s, 3)}


def begin(work: Work) -> Work:
    """Write the plan of a cache, and what others need to help with it."""
    write_plan(work.folder, work.plan, work.shape.shared)
    if isinstance(work.contents, ContentLog) and missing_parts(work.folder, work.plan):
        leave_scan(work.folder, work.plan, work.scan, work.contents)
    return work


def begin_together(folder: Where, plan: Callable[[], Work]) -> Work:
    """Begin a cache as one of many that start at once: the first plans, the others wait and join.

    Raises: CacheError if the folder cannot be written.
    """
    with plan_in_turn(folder) as is_first:
        if is_first:
            return begin(plan())
    return begin(plan())


def finish_cache(folder: Where, plan: Plan) -> dict[str, Any]:
    """Complete a cache of which every part is there, and say what is in it.

    Raises: IncompleteCache if parts are missing; CorruptPart if one was damaged.
    """
    manifest = finish(folder, plan)
    statistics = {name: manifest["statistics"][name] for name in ("labelled", "teacher_right")}
    return {"size_bytes": manifest["size_bytes"], "digest": manifest["digest"], **statistics}


def tell_kept(folder: Where) -> str:
    """Say what is safe of a cache whose making is interrupted."""
    if not is_planned(folder):
        return f"nothing is in {folder} yet; the same command begins anew"
    plan = read_plan(folder)
    there = plan.part_count - len(missing_parts(folder, plan))
    return f"{there} of {plan.part_count} parts are committed in {folder}; the same command goes on"


def tell_cache(summary: dict[str, Any]) -> str:
    """Say what there is now, and what comes next."""
    head = tell_plan(summary)
    made = summary["made_rows"]
    speed = f"{made / max(summary['elapsed_s'], 1e-9):,.0f} rows/s" if made else "nothing to do"
    work = (
        f"  started in {summary['startup_s']:.1f} s, made {made} rows in "
        f"{summary['elapsed_s']:.1f} s ({speed})"
    )
    if "digest" not in summary:
        return f"{head}\n{work}\n{_missing(summary)}"
    return f"{head}, {_size(summary['size_bytes'])}\n{work}\n{tell_digest(summary)}"


def tell_digest(summary: dict[str, Any]) -> str:
    """Say what stands for every byte, and how good the teacher is."""
    return f"  digest {summary['digest'][:16]}{_accuracy(summary)}"


def _missing(summary: dict[str, Any]) -> str:
    return (
        f"  range {summary['part_range']} is done; {summary['missing_parts']} of "
        f"{summary['parts']} parts are missing yet: whoever makes the last completes the cache"
    )


def tell_plan(planned: dict[str, Any]) -> str:
    """Say in a line what is planned."""
    return (
        f"{planned['cache']}: {planned['rows']} rows in {planned['parts']} parts, "
        f"{planned['kept']} of {planned['classes']} classes kept"
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


def _make(work: Work, parts: Sequence[int], stage: str, quiet: bool) -> int:
    """Make what is missing of some parts; gives the rows made here, for others may make some."""
    missing = set(missing_parts(work.folder, work.plan))
    order = [part for part in parts if part in missing]
    total, left = _rows_of(work, parts), _rows_of(work, order)
    if left < total:
        say(f"{work.folder}: {total - left} of {total} rows are there already", quiet)
    if not order:
        return 0
    made, said = 0, set[str]()

    def wait(text: str) -> None:
        if text not in said:
            say(text, quiet)
        said.add(text)

    with progress(
        stage, total=total, done=total - left, note=f"into {work.folder}", quiet=quiet
    ) as advance:

        def count(rows: int) -> None:
            nonlocal made
            made += rows
            advance(rows)

        make_parts(work, order, count, wait)
    return made


def _rows_of(work: Work, parts: Sequence[int]) -> int:
    return sum(len(work.plan.part_range(part)) for part in parts)


def planned(work: Work) -> dict[str, Any]:
    """Say what a cache will be, as far as its plan says it; sizes are those of the arrays."""
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
