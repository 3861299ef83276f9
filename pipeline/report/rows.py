"""The rows of a cache as its teacher saw them: tokens, masks and pictures, and what is true there.

Rows of tokens come out of the cache itself; pictures out of the data that a recipe names, proved by
their digests. Knows no targets.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.experiment import open_viewed
from pipeline.experiment.pseudo_labels import look_at
from pipeline.recipe import Recipe
from pipeline.samples import (
    Maskable,
    SampleBatch,
    Samples,
    Views,
    content_digests,
    read_views,
    split_rows,
    views_of,
)
from pipeline.samples.images import encode_png
from pipeline.samples.text.tokens import is_predicted
from pipeline.samples.views.masks import Masks
from pipeline.store import UNLABELLED, Cache, SampleTable
from pipeline.stream.tokens.cached import ROW
from pipeline.stream.tokens.rows import decode_rows, decode_token_counts

Arrays = Mapping[str, NDArray[Any]]
# A row by its number, its sample's id and digest (16,): as PNG, as text, or None if it is not there
# any more.
Look = Callable[[int, str, NDArray[np.uint8]], bytes | str | None]


def has_tokens(cache: Cache) -> bool:
    """Whether a cache holds its rows' tokens."""
    return {field.name for field in cache.plan.fields}.issuperset(ROW)


def task_of(cache: Cache) -> str:
    """Say what was asked of a row: its label, or tokens."""
    tokens = cache.plan.about.get("tokens")
    return str(tokens["task"]) if tokens else "label"


def open_masks(cache: Cache) -> Views | None:
    """Make what hid tokens from the teacher again; None if nothing did, or by other rules."""
    told = cache.plan.about.get("views") or {}
    if "mask" not in told or not has_tokens(cache):
        return None
    mask, vocabulary = told["mask"], cache.plan.about["tokens"]["vocabulary"]
    maskable = Maskable(mask["token"], decode_token_counts(cache.read_shared(), vocabulary))
    how = {name: mask[name] for name in ("fraction", "rare", "mask", "random")}
    views = Views(told["count"], told["seed"], Masks(maskable, **how))
    return views if views.settings == told else None


def token_rows(table: SampleTable, arrays: Arrays, masks: Views | None) -> NDArray[np.int32]:
    """Build the rows of tokens of a part. Shapes: returns (B, 2, L), with masks (B, 3, L)."""
    rows = decode_rows(arrays)
    if masks is None:
        return rows
    batch = SampleBatch(table.ids, rows, table.labels)
    return masks.show(batch, table.views.astype(np.int64)).inputs


def asked_tokens(row: NDArray[np.int32]) -> NDArray[np.int64]:
    """Say which tokens of a row are asked for. Shapes: row (2 or 3, L); returns (positions,)."""
    if len(row) == 3:
        return np.flatnonzero(row[2] >= 0)
    return 1 + np.flatnonzero(is_predicted(row[None])[0])


def position_labels(
    cache: Cache, table: SampleTable, arrays: Arrays, masks: Views | None
) -> NDArray[np.int64]:
    """Say what is true at each position of a part, -1 where that is not known.

    Of mixed samples it is none of two labels.

    Shapes: arrays of the part's tokens, if it has any; returns (P,).
    """
    views, task = cache.plan.about.get("views") or {}, task_of(cache)
    if task == "label" and not views.get("mix"):
        return table.labels
    if task == "next_token" and arrays:
        rows = decode_rows(arrays)
        return rows[:, 0, 1:][is_predicted(rows)].astype(np.int64)
    if task == "masked_token" and masks:
        originals = token_rows(table, arrays, masks)[:, 2]
        return originals[originals >= 0].astype(np.int64)
    return np.full(int(table.positions.sum()), UNLABELLED, np.int64)


def open_look(cache: Cache, recipe: Recipe, name: str) -> Look:
    """Make what shows rows of a cache, in the views that its teacher saw, if they are still such.

    Raises: SampleError if [data.NAME] is not what the recipe says.
    """
    told = cache.plan.about.get("views")
    if told:
        samples = open_viewed(recipe, name)
        is_same = views_of(samples).settings == told
        if is_same and len(samples) * told["count"] == cache.plan.rows:
            return partial(_show_view, cache, samples)
    plain = look_at(recipe, name)
    return lambda row, sample_id, digest: plain([sample_id], digest[None])[0]


def _show_view(
    cache: Cache, samples: Samples, row: int, sample_id: str, digest: NDArray[np.uint8]
) -> bytes | None:
    """Show one row as it was seen, mixed with its partner if it was."""
    rows = np.array([row])
    index, _ = split_rows(rows, len(samples))
    clean = samples.read(index)
    if clean.ids != [sample_id] or not np.array_equal(content_digests(clean.inputs)[0], digest):
        return None
    part = cache.plan.part_range(row // cache.plan.rows_per_part)
    return encode_png(read_views(samples, rows, part).inputs[0])
