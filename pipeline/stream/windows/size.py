"""How large a window is: how many parts are at hand at a time, and so how well rows are shuffled.

Follows from the plan alone, for the order of an epoch must be the same on any machine.
"""

from pipeline.store import Cache, Field, Plan

# Rows copied into memory: eight parts of them are enough for any shuffling, and not too many.
COPIED_PARTS = 8
# Rows that are gathered where they lie cost no memory but their places, so a cache of such a size
# is shuffled as a whole. A larger window is more than a machine may keep in memory, and more than
# is checked in half a second, which the first batch waits for.
MAPPED_BYTES, MAPPED_ROWS = 3 * 2**28, 2**20
# From so many bytes on a row is better gathered than copied first.
LONG_ROW_BYTES = 1024
# A field of a part that is larger lies in several files, and is copied.
CHUNK_BYTES = 2**26


def choose_window_parts(cache: Cache | None, *, is_alone: bool) -> int:
    """Say how many parts make a window, unless somebody says otherwise.

    What a window has of others than the first cache is copied, and so is what there is no cache of;
    a cache that is still made comes part by part.
    """
    if cache is None or cache.is_growing or not is_alone:
        return COPIED_PARTS
    plan = cache.plan
    if plan.backend != "zarr" or plan.compression != "none":
        return COPIED_PARTS
    sizes = [row_bytes(plan, each) for each in plan.fields]
    bytes_a_row = sum(sizes)
    is_one_chunk = max(sizes) * plan.rows_per_part <= CHUNK_BYTES
    if bytes_a_row < LONG_ROW_BYTES or not is_one_chunk:
        return COPIED_PARTS
    rows = min(MAPPED_ROWS, MAPPED_BYTES // bytes_a_row)
    return max(COPIED_PARTS, rows // plan.rows_per_part)


def row_bytes(plan: Plan, field: Field) -> int:
    """Count the bytes of a field that a row has; of text, one as long as rows can be."""
    return field.entry_bytes * (_positions_a_row(plan) if field.axis == "positions" else 1)


def _positions_a_row(plan: Plan) -> int:
    tokens = plan.about.get("tokens")
    if not tokens or tokens["task"] == "label":
        return 1
    (length,) = (field.shape[0] for field in plan.fields if field.name == "tokens")
    return length
