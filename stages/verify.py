"""`pipeline verify`: prove a cache whole, or name the part, the file and the fault."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.caching import Work, answer, plan_cache, plan_written
from pipeline.compute import map_threads
from pipeline.errors import PipelineError
from pipeline.progress import progress
from pipeline.recipe import Recipe, load_recipe, require_tables
from pipeline.samples import SampleBatch, positions_of, read_views, split_rows
from pipeline.store import (
    Cache,
    Fault,
    Where,
    check_plan,
    find_faults,
    open_cache,
    read_plan,
)
from pipeline.store.records import MANIFEST_FILE, PLAN_FILE, record_path
from pipeline.stream.tokens.cached import ROW
from pipeline.stream.tokens.rows import decode_rows
from pipeline.targets import decode_feature

Array = NDArray[Any]

SHOWN_FAULTS = 20
SHOWN_NAMES = 5
# The fields that an audit compares.
LOGITS = ("logits", "drawn_logits")
CLASSES = ("classes", "top", "drawn")


def run(
    target: str,
    *,
    overrides: Sequence[str] = (),
    audit: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Check every byte of a cache, and with `audit` ask the teacher again about that many rows.

    `target` is a cache's folder, or a recipe that names it; an audit needs the recipe.

    Raises: CacheError if there is no cache; PipelineError if an audit is asked of a bare folder.
    """
    recipe = load_recipe(target, overrides) if target.endswith(".toml") else None
    if audit and recipe is None:
        raise PipelineError(
            f"{target}: an audit runs the teacher, which only the recipe names. "
            f"Give the recipe in place of the cache: pipeline verify RECIPE.toml --audit {audit}"
        )
    folder = _folder(recipe) if recipe else target
    faults = _find_faults(folder, quiet)
    summary: dict[str, Any] = {
        "cache": str(folder),
        "whole": not faults,
        "faults": [asdict(fault) for fault in faults],
        "lines": [str(fault) for fault in faults],
    }
    if audit and recipe and not faults:
        summary["audit"] = _audit(recipe, open_cache(folder), audit, quiet)
    return summary


def tell(summary: dict[str, Any]) -> str:
    """Say that it is whole, or list the faults."""
    lines = summary["lines"]
    if not summary["whole"]:
        count = f"{len(lines)} fault{'s' if len(lines) != 1 else ''}"
        more = len(lines) - SHOWN_FAULTS
        shown = [*lines[:SHOWN_FAULTS], *([f"and {more} more"] if more > 0 else [])]
        return "\n  ".join([f"{summary['cache']}: {count}", *shown, *_advise(summary["faults"])])
    text = f"{summary['cache']}: whole; every byte is what was committed"
    if "audit" not in summary:
        return text
    audit = summary["audit"]
    return (
        f"{text}\n  audit: the teacher answered again for {audit['rows']} rows; largest difference "
        f"of a kept logit {audit['largest_difference']:.2g}, {audit['other_classes']} of "
        f"{audit['kept']} kept classes differ{_of_features(audit)}"
    )


def _of_features(audit: Mapping[str, Any]) -> str:
    largest = audit.get("largest_feature_difference")
    return "" if largest is None else f", largest difference of a feature {largest:.2g}"


def _advise(faults: list[dict[str, Any]]) -> list[str]:
    """Say how to mend as little as is needed; every part can be made anew by itself."""
    parts = sorted({fault["part"] for fault in faults if fault["part"] is not None})
    files = {fault["file"] for fault in faults if fault["part"] is None}
    if PLAN_FILE in files:
        return [f"Restore {PLAN_FILE}, or delete the cache and make it again."]
    advice = []
    if foreign := files - {MANIFEST_FILE}:
        advice.append(f"Move away what does not belong: {_first_of(sorted(foreign))}.")
    if parts:
        records = _first_of([record_path(part) for part in parts])
        advice.append(f"Restore the files of these parts, or delete their records ({records}).")
    if parts or MANIFEST_FILE in files:
        again = "Then run cache-teacher, or generate, again"
        advice.append(f"{again}: it makes what is missing, and nothing else.")
    return advice


def _first_of(names: list[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _folder(recipe: Recipe) -> Where:
    if recipe.generate and recipe.cache is None:
        return recipe.locate_cache(recipe.generate.path)
    require_tables(recipe, "verify", "cache")
    assert recipe.cache
    return recipe.locate_cache(recipe.cache.path)


def _find_faults(folder: Where, quiet: bool) -> list[Fault]:
    workers = os.cpu_count() or 1
    try:
        total = read_plan(folder).part_count
    except PipelineError:
        return find_faults(folder)  # it says itself what is wrong with the plan
    with progress("verify", total=total, unit="parts", note=f"of {folder}", quiet=quiet) as advance:

        def map_parts(check: Any, parts: Any) -> Any:
            for faults in map_threads(check, parts, workers):
                advance(1)
                yield faults

        return find_faults(folder, map_parts)


def _audit(recipe: Recipe, cache: Cache, count: int, quiet: bool) -> dict[str, Any]:
    """Ask the teacher again about evenly spread rows, in the very batches they were made in."""
    require_tables(recipe, "verify --audit", "teacher", "targets")
    is_written = "generate" in cache.plan.settings
    if is_written:
        require_tables(recipe, "verify --audit", "generate")
    work = (plan_written if is_written else plan_cache)(recipe, quiet=quiet)
    check_plan(work.folder, work.plan)
    rows = np.unique(np.linspace(0, cache.plan.rows - 1, min(count, cache.plan.rows)).astype(int))
    largest, other, kept, of_feature = 0.0, 0, 0, 0.0
    with progress("audit", total=len(rows), quiet=quiet) as advance:
        for row in rows.tolist():
            difference, others, classes, feature = _compare_row(work, cache, row)
            largest, other, kept = max(largest, difference), other + others, kept + classes
            of_feature = max(of_feature, feature)
            advance(1)
    return {
        "rows": len(rows),
        "largest_difference": largest,
        "other_classes": other,
        "kept": kept,
        **({"largest_feature_difference": of_feature} if work.features else {}),
    }


def _compare_row(work: Work, cache: Cache, row: int) -> tuple[float, int, int, float]:
    part = row // work.plan.rows_per_part
    rows = work.plan.part_range(part)
    start = rows.start + (row - rows.start) // work.batch_size * work.batch_size
    asked = range(start, min(start + work.batch_size, rows.stop))
    batch, views = _read_again(work, cache, part, asked)
    counts = positions_of(work.samples, batch).counts
    again = _of_row(work, answer(work, batch, views), counts, row - start)
    counts = cache.read_samples(part).positions.astype(np.int64)
    there = _of_row(work, cache.read_part(part, list(again)), counts, row - rows.start)
    difference = _largest_difference(again, there, [name for name in LOGITS if name in again])
    pairs = [(decode_feature(each, again), decode_feature(each, there)) for each in work.features]
    of_feature = max((float((one - two).abs().max()) for one, two in pairs), default=0.0)
    named = [name for name in CLASSES if name in again]
    others = sum(int((again[name] != there[name]).sum()) for name in named)
    kept = sum(again[name].size for name in named or LOGITS[:1])
    return difference, others, kept, of_feature


def _read_again(
    work: Work, cache: Cache, part: int, asked: range
) -> tuple[SampleBatch, NDArray[np.int64]]:
    """Read rows as the teacher saw them; text that it wrote is in the cache alone."""
    rows = work.plan.part_range(part)
    if not work.writing:
        numbers = split_rows(asked, len(work.samples))[1]
        return read_views(work.samples, asked, rows), numbers
    cut = slice(asked.start - rows.start, asked.stop - rows.start)
    inputs = decode_rows(cache.read_part(part, ROW))[cut]
    table = cache.read_samples(part)
    return SampleBatch(table.ids[cut], inputs, table.labels[cut]), np.zeros(len(inputs), np.int64)


def _largest_difference(
    again: Mapping[str, Array], there: Mapping[str, Array], names: Iterable[str]
) -> float:
    pairs = [(again[name].astype(float), there[name].astype(float)) for name in names]
    return max((float(np.abs(one - other).max()) for one, other in pairs), default=0.0)


def _of_row(work: Work, arrays: Mapping[str, Array], counts: Array, row: int) -> dict[str, Array]:
    """Cut one row, or its positions, out of arrays. Shapes: counts (rows,)."""
    start = int(counts[:row].sum())
    cuts = {"rows": slice(row, row + 1), "positions": slice(start, start + int(counts[row]))}
    axes = {field.name: field.axis for field in work.plan.fields}
    return {name: array[cuts[axes[name]]] for name, array in arrays.items()}
