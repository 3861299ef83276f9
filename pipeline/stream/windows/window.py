"""Several parts in memory at once, and the gathering of rows out of them.

A window knows fields over rows and over positions, and where each of its rows lies in the dataset.
It does not know in which order they are asked for.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.samples import Locator
from pipeline.store import Cache, SampleTable
from pipeline.stream.windows.expected import Expected
from pipeline.stream.windows.large import (
    Blocks,
    Empty,
    LargeFields,
    copy_runs,
    gather,
    take_rows,
)

Array = NDArray[np.generic]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """The rows of some parts, in order of part and row.

    Shapes: bounds (parts + 1,), the rows at which parts begin and the last ends; indices, views,
    positions and starts (rows,); fields (rows, ...) or (positions of all rows, ...).
    """

    bounds: Rows
    indices: Rows
    views: Rows
    positions: Rows
    starts: Rows
    over_rows: Mapping[str, Array]
    over_positions: Mapping[str, Array]
    # Of each large field where it lies, and its axis.
    large: Mapping[str, tuple[Blocks, str]] = field(default_factory=dict)

    @cached_property
    def is_single(self) -> bool:
        """Whether every row has one position, as images have."""
        return bool((self.positions == 1).all())

    def sizes(self, places: Rows) -> Rows:
        """Count the rows of the part that each row lies in. Shapes: places (n,); returns (n,)."""
        part = self._parts_of(places)
        found: Rows = self.bounds[part + 1] - self.bounds[part]
        return found

    def partners(self, places: Rows, later: int) -> Callable[[Rows], tuple[Rows, Rows]]:
        """Make what finds samples and views of other rows of the same parts, by places in those.

        Shapes: places (n,).
        """
        starts = self.bounds[self._parts_of(places)]
        return lambda within: (self.indices[starts + within], self.views[starts + within] + later)

    def _parts_of(self, places: Rows) -> Rows:
        return np.searchsorted(self.bounds, places, side="right") - 1

    def gather(
        self, places: Rows, empty: Empty = np.empty, *, without: Collection[str] = ()
    ) -> dict[str, Array]:
        """Copy the fields of some rows, one after the other, the large ones into arrays that
        `empty` makes.

        Shapes: places (n,).
        """
        fields = {name: np.take(array, places, axis=0) for name, array in self.over_rows.items()}
        over_positions = [name for name in self.over_positions if name not in without]
        at = self.entries_of(places) if over_positions else places
        fields |= {name: np.take(self.over_positions[name], at, axis=0) for name in over_positions}
        return fields | self._gather_large(places, empty)

    def _gather_large(self, places: Rows, empty: Empty) -> dict[str, Array]:
        runs, count, made = None, 0, {}
        for name, (blocks, axis) in self.large.items():
            if axis == "rows" or self.is_single:
                made[name] = gather(blocks, places, empty)
                continue
            if self._even and (whole := blocks.whole(self._even * len(places))) is not None:
                made[name] = take_rows(whole, places, self._even, empty)
                continue
            if runs is None:  # the same for all fields over positions
                runs, count = self._runs[places].tolist(), int(self.positions[places].sum())
            made[name] = copy_runs(blocks, runs, count, empty)
        return made

    @cached_property
    def _even(self) -> int:
        """How many positions every row has; 0 where that differs."""
        first = int(self.positions[0])
        return first if bool((self.positions == first).all()) else 0

    @cached_property
    def _runs(self) -> Rows:
        """The part of each row, and where in it its positions begin and end; found once, not in
        every batch. Shapes: (rows, 3).
        """
        part = self._parts_of(np.arange(len(self.starts)))
        begins = self.starts - self.starts[self.bounds[part]]
        return np.stack([part, begins, begins + self.positions], axis=1)

    def entries_of(self, places: Rows) -> Rows:
        """Find the positions of some rows among those of all. Shapes: places (n,)."""
        if self.is_single:
            return places
        counts, starts = self.positions[places], self.starts[places]
        # Each row's run of positions, as one flat index: its start, plus 0, 1, 2, ... within it.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at: Rows = np.repeat(starts, counts) + within
        return at


def sample_window(parts: Sequence[range]) -> Window:
    """A window without targets: rows are the samples themselves."""
    indices = np.fromiter(chain.from_iterable(parts), np.int64)
    zeros, ones = np.zeros_like(indices), np.ones_like(indices)
    bounds = _bounds([len(part) for part in parts])
    return Window(bounds, indices, zeros, ones, np.arange(len(indices)), {}, {})


def _bounds(sizes: Sequence[int]) -> Rows:
    return np.cumsum([0, *sizes])


@dataclass(frozen=True)
class Places:
    """Where the rows of a part lie in the dataset. Shapes: (rows,) each."""

    indices: Rows
    views: Rows
    positions: Rows


@dataclass(frozen=True)
class Finder:
    """Where the rows of a part lie in the dataset, remembered where that takes no memory.

    Data in the order of the cache, in one view and with as many positions in every row, is told by
    two numbers a part; its table is read once, and not again in later epochs.
    """

    locator: Locator
    # Of each view, one view after another.
    samples: int
    # Of a part the first index, and the positions of each row.
    runs: dict[int, tuple[int, int]] = field(default_factory=dict)

    def find(self, cache: Cache, part: int, *, check: bool) -> Places:
        """Give the indices of a part's rows, their views and their numbers of positions.

        Raises: CorruptPart if the table is damaged; SampleError if the dataset lacks a sample.
        """
        rows = cache.plan.part_range(part)
        if part in self.runs:
            (start, count), zeros = self.runs[part], np.zeros(len(rows), np.int64)
            return Places(np.arange(start, start + len(rows)), zeros, zeros + count)
        table = cache.read_samples(part, check=check)
        indices = self.locator.locate(table.ids, rows.start % self.samples)
        self.note(part, table, indices)
        return Places(indices, table.views.astype(np.int64), table.positions.astype(np.int64))

    def note(self, part: int, table: SampleTable, indices: Rows) -> None:
        """Remember where the rows of a part lie, if that takes no memory. Shapes: indices (n,), of
        the first rows of the table.
        """
        first, count = int(indices[0]), int(table.positions[0])
        run = np.arange(first, first + len(table.ids))
        is_run = first >= 0 and np.array_equal(indices, run)
        if is_run and bool((table.positions == count).all()) and not table.views.any():
            self.runs[part] = first, count


def cache_window(
    cache: Cache,
    parts: Sequence[int],
    *,
    finder: Finder,
    names: Sequence[str],
    large: LargeFields | None = None,
    check: bool,
) -> Window:
    """Read parts of a cache and find their samples, by id, in the dataset.

    Raises: CorruptPart if a file is damaged; SampleError if the dataset lacks a sample.
    """
    found = [finder.find(cache, part, check=check) for part in parts]
    arrays = _read_parts(cache, parts, names, check=check) if names else []
    positions = np.concatenate([each.positions for each in found])
    axes = {each.name: each.axis for each in cache.plan.fields}
    # Popped, so that never more than one field is in memory twice.
    joined = {name: np.concatenate([array.pop(name) for array in arrays]) for name in names}
    bounds = _bounds([len(each.indices) for each in found])
    return Window(
        bounds,
        np.concatenate([each.indices for each in found]),
        np.concatenate([each.views for each in found]),
        positions,
        np.cumsum(positions) - positions,
        {name: array for name, array in joined.items() if axes[name] == "rows"},
        {name: array for name, array in joined.items() if axes[name] == "positions"},
        _large_fields(cache, parts, large, bounds, positions) if large else {},
    )


def _read_parts(
    cache: Cache, parts: Sequence[int], names: Sequence[str], *, check: bool
) -> list[dict[str, Array]]:
    expected, arrays = Expected(cache, names, iter(parts)), []
    for part in parts:
        expected.tell()
        arrays.append(cache.read_part(part, names, check=check))
    return arrays


def _large_fields(
    cache: Cache, parts: Sequence[int], large: LargeFields, bounds: Rows, positions: Rows
) -> dict[str, tuple[Blocks, str]]:
    """Say where the large fields of some parts lie, without waiting for them."""
    reading = large.read_all(cache, parts)
    ends = {"rows": bounds[1:], "positions": np.cumsum(positions)[bounds[1:] - 1]}
    axes = {each.name: each.axis for each in cache.plan.fields}
    stay = len(parts) == cache.plan.part_count  # there is no other window

    def field_of(name: str) -> Blocks:
        def get(number: int) -> Array:
            return reading.get(number)[name]

        return Blocks(ends[axes[name]], get, reading.ask, stay)

    return {name: (field_of(name), axes[name]) for name in large.names}
