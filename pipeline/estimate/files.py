"""What files take: a part of one row and one of many are built, and the second is stored.

Knows rows that were answered, not who answered. The small cache it leaves in a folder that the
caller throws away is what a student may be timed on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.caching.answer import Arrays
from pipeline.caching.make import Rows, build_rows
from pipeline.caching.plan import Work
from pipeline.estimate.clock import timed
from pipeline.samples import Positions
from pipeline.store import Built, claim_part, finish, open_cache, store_part, write_plan


@dataclass(frozen=True)
class Files:
    """What the files of parts take: `row_bytes`, `build_s` and `fetch_s` of a row, `once_s` once,
    others of a part. `varies` says whether rows differ in their number of positions.
    """

    rows: int
    positions_a_row: float
    varies: bool
    once_s: float
    build_s: float
    part_s: float
    store_s: float
    fetch_s: float
    row_bytes: float
    part_bytes: float


def measure_files(work: Work, batches: Sequence[Rows], arrays: Arrays, scratch: Path) -> Files:
    """Build a part of one row and one of all: what they differ by is of rows, the rest of parts.

    That of all becomes a cache in the folder `scratch`.

    Shapes: arrays[name] (rows or positions of the batches, and perhaps more, ...).
    """
    counts = np.concatenate([each.positions.counts for each in batches])
    rows, varies = len(counts), bool((counts != counts[0]).any())
    single, whole = (_only(work, scratch, count) for count in (1, rows))
    load_s, _ = timed(partial(_build, single, batches, arrays))
    first_s, _ = timed(partial(_build, whole, batches, arrays))
    whole_s, built = timed(partial(_build, whole, batches, arrays))
    one_s, one = timed(partial(_build, single, batches, arrays))
    # Parts of as many positions share their layout, others have to work out their own.
    layout_s = max(0.0, first_s - whole_s)
    folder_s, (store_s, fetch_s) = timed(partial(_store, whole, built))
    once_s = max(0.0, load_s - one_s) + folder_s - store_s - fetch_s
    sizes = [sum(content.nbytes for _, content in each.contents) for each in (one, built)]
    row_bytes = (sizes[1] - sizes[0]) / max(1, rows - 1)
    return Files(
        rows=rows,
        positions_a_row=float(counts.mean()),
        varies=varies,
        once_s=once_s + (0.0 if varies else layout_s),
        build_s=max(0.0, whole_s - one_s) / max(1, rows - 1),
        part_s=one_s + (layout_s if varies else 0.0),
        store_s=store_s,
        fetch_s=fetch_s / rows,
        row_bytes=row_bytes,
        part_bytes=max(0.0, sizes[0] - row_bytes),
    )


def _only(work: Work, folder: Path, rows: int) -> Work:
    """Plan a cache of one part of so many rows, all of one view."""
    about = dict(work.plan.about)
    if "views" in about:
        about["views"] = {**about["views"], "count": 1}
    plan = replace(work.plan, rows=rows, rows_per_part=rows, about=about)
    return replace(work, plan=plan, folder=folder)


def _build(work: Work, batches: Sequence[Rows], arrays: Arrays) -> Built:
    """Build the part that is planned, of all rows or of the first; arrays may hold more."""
    count = work.plan.rows
    if count == 1:
        batches = [_first(batches[0])]
    positions = sum(int(batch.positions.counts.sum()) for batch in batches)
    entries = {"rows": count, "positions": positions}
    axes = {field.name: field.axis for field in work.plan.fields}
    cut = {name: array[: entries[axes[name]]] for name, array in arrays.items()}
    return build_rows(work, 0, batches, [cut])


def _first(rows: Rows) -> Rows:
    count = int(rows.positions.counts[0])
    positions = Positions(rows.positions.counts[:1], rows.positions.labels[:count])
    tokens = {name: array[:1] for name, array in rows.tokens.items()}
    return Rows(rows.ids[:1], rows.labels[:1], rows.digests[:1], rows.views[:1], positions, tokens)


def _store(work: Work, built: Built) -> tuple[float, float]:
    """Make a cache of one part; gives the seconds to store the part and to read its arrays."""
    write_plan(work.folder, work.plan, work.shape.shared)
    with claim_part(work.folder, 0):
        store_s, _ = timed(partial(store_part, built))
    finish(work.folder, work.plan)
    fetch_s, _ = timed(partial(open_cache(work.folder).read_part, 0))
    return store_s, fetch_s
