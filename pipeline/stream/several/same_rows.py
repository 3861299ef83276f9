"""Whether several caches hold the same rows, however each cuts them into parts."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError, TargetError, list_differences
from pipeline.kept_targets import spec_of
from pipeline.samples.batch import name_some
from pipeline.store import Cache, SampleTable

ADVICE = (
    "Several caches teach one student only if all are of the same rows: make them by recipes with "
    "the same [data], [views] and cache.data."
)
SHOWN = 5


def check_plans(first: Cache, other: Cache) -> None:
    """Refuse a cache that cannot be of the same rows and classes, without reading any.

    Raises: TargetError if its teacher has other classes; SampleError if it has another number of
        rows, or was made of other views or another task.
    """
    classes = [spec_of(cache).class_count for cache in (first, other)]
    if classes[0] != classes[1]:
        raise TargetError(
            f"{other.path}: holds targets over {classes[1]} classes, {first.path} over "
            f"{classes[0]}; a distribution of the one says nothing of the other's. Give caches of "
            "teachers with the same classes."
        )
    if first.plan.rows != other.plan.rows:
        raise SampleError(
            f"{other.path}: holds {other.plan.rows:,} rows, {first.path} {first.plan.rows:,}\n"
            f"  {ADVICE}"
        )
    described = [
        {name: cache.plan.about.get(name) for name in ("views", "tokens")}
        for cache in (first, other)
    ]
    if lines := list_differences((described[0], described[1])):
        head = f"{other.path}: was made of other rows than {first.path} (there)"
        raise SampleError("\n  ".join([head, *lines, ADVICE]))


def check_rows(first: Cache, other: Cache) -> None:
    """Prove that two caches hold the same samples, in the same views and order.

    Raises: SampleError that counts the rows that differ and names the first five of each kind.
    """
    differences = _Differences()
    for one, two in _aligned(first, other):
        if not _are_equal(one, two):
            _compare(one, two, differences)
    if differences.names:
        lines = [
            f"{kind}: {len(names):,}: {name_some(names[:SHOWN], len(names))}"
            for kind, names in differences.names.items()
        ]
        head = f"{other.path}: its rows are not those of {first.path}, which says what comes when"
        raise SampleError("\n  ".join([head, *lines, ADVICE]))


@dataclass
class _Differences:
    """The ids, in the first cache, of rows that differ; a row is listed by its first difference."""

    names: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, sample_id: str) -> None:
        self.names.setdefault(kind, []).append(sample_id)


def _aligned(*caches: Cache) -> Iterator[tuple[SampleTable, ...]]:
    """Walk through the rows of caches side by side, in pieces that lie in one part of each."""
    rows = caches[0].plan.rows
    borders = {rows, *(part for cache in caches for part in range(0, rows, _size(cache)))}
    held: dict[int, tuple[int, SampleTable]] = {}
    for start, stop in pairwise(sorted(borders)):
        pieces = []
        for place, cache in enumerate(caches):
            part = start // _size(cache)
            if place not in held or held[place][0] != part:
                held[place] = part, cache.read_samples(part)
            begin = part * _size(cache)
            pieces.append(_slice(held[place][1], slice(start - begin, stop - begin)))
        yield tuple(pieces)


def _size(cache: Cache) -> int:
    return cache.plan.rows_per_part


def _slice(table: SampleTable, rows: slice) -> SampleTable:
    return SampleTable(
        table.ids[rows],
        table.digests[rows],
        table.views[rows],
        table.labels[rows],
        table.positions[rows],
    )


def _are_equal(one: SampleTable, two: SampleTable) -> bool:
    arrays = ("digests", "views", "positions")
    return one.ids == two.ids and all(
        np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays
    )


def _compare(one: SampleTable, two: SampleTable, differences: _Differences) -> None:
    is_same = {
        "another sample": np.array(one.ids, object) == np.array(two.ids, object),
        "another content": (one.digests == two.digests).all(1),
        "another view": one.views == two.views,
        "another number of positions": one.positions == two.positions,
    }
    known: NDArray[np.bool_] = np.zeros(len(one), bool)
    for kind, same in is_same.items():
        for row in np.flatnonzero(~same & ~known).tolist():
            differences.note(kind, one.ids[row])
        known |= ~same
