"""The labels of a part's positions: those of its rows, or the tokens that were to be predicted.

Knows parts of a cache, not their targets.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.samples.text.tokens import is_predicted
from pipeline.store import UNLABELLED, Cache, SampleTable
from pipeline.stream.cached import ROW
from pipeline.stream.token_rows import decode_rows

Arrays = Mapping[str, NDArray[Any]]


def token_fields_of(cache: Cache) -> tuple[str, ...]:
    """Name the fields that labels are read from: those of tokens, where positions are tokens."""
    there = {field.name for field in cache.plan.fields}
    return ROW if _task(cache) == "next_token" and there.issuperset(ROW) else ()


def position_labels(cache: Cache, table: SampleTable, arrays: Arrays) -> NDArray[np.int64]:
    """Say what is true at each position of a part, -1 where that is not known here.

    Of masked tokens it is not: which they are follows from a seed. Nor of mixed samples, whose
    truth is none of two.

    Shapes: arrays of the part's rows of tokens; returns (P,).
    """
    views = cache.plan.about.get("views") or {}
    if token_fields_of(cache):
        rows = decode_rows(arrays)
        return rows[:, 0, 1:][is_predicted(rows)].astype(np.int64)
    if _task(cache) in (None, "label") and not views.get("mix"):
        return table.labels
    return np.full(int(table.positions.sum()), UNLABELLED, np.int64)


def _task(cache: Cache) -> str | None:
    tokens = cache.plan.about.get("tokens")
    return tokens["task"] if tokens else None
