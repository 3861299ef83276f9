"""Several parts in memory at once, and the gathering of rows out of them.

A window knows fields over rows and over positions, and where each of its rows lies in the dataset.
It does not know in which order they are asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.samples import Locator
from pipeline.store import Cache

Array = NDArray[np.generic]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """The rows of some parts, in order of part and row.

    Shapes: indices, positions and starts (rows,); fields (rows, ...) or (positions of all rows,
    ...).
    """

    indices: Rows
    positions: Rows
    starts: Rows
    over_rows: Mapping[str, Array]
    over_positions: Mapping[str, Array]

    def gather(self, places: Rows) -> dict[str, Array]:
        """Copy the fields of some rows, one after the other. Shapes: places (n,)."""
        at = self._positions_of(places)
        fields = {name: np.take(array, places, axis=0) for name, array in self.over_rows.items()}
        return fields | {
            name: np.take(array, at, axis=0) for name, array in self.over_positions.items()
        }

    def _positions_of(self, places: Rows) -> Rows:
        counts, starts = self.positions[places], self.starts[places]
        if len(counts) and counts.min() == counts.max() == 1:
            return starts
        # Each row's run of positions, as one flat index: its start, plus 0, 1, 2, ... within it.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at: Rows = np.repeat(starts, counts) + within
        return at


def sample_window(parts: Sequence[range]) -> Window:
    """A window without targets: rows are the samples themselves."""
    indices = np.fromiter(chain.from_iterable(parts), np.int64)
    ones = np.ones(len(indices), np.int64)
    return Window(indices, ones, np.arange(len(indices)), {}, {})


def cache_window(
    cache: Cache, parts: Sequence[int], *, locator: Locator, names: Sequence[str], check: bool
) -> Window:
    """Read parts of a cache and find their samples, by id, in the dataset.

    Raises: CorruptPart if a file is damaged; SampleError if the dataset lacks a sample.
    """
    tables = [cache.read_samples(part, check=check) for part in parts]
    arrays = [cache.read_part(part, names, check=check) for part in parts]
    indices = [
        locator.locate(table.ids, cache.plan.part_range(part).start)
        for part, table in zip(parts, tables, strict=True)
    ]
    positions = np.concatenate([table.positions for table in tables]).astype(np.int64)
    axes = {field.name: field.axis for field in cache.plan.fields}
    # Popped, so that never more than one field is in memory twice.
    joined = {name: np.concatenate([array.pop(name) for array in arrays]) for name in names}
    return Window(
        np.concatenate(indices),
        positions,
        np.cumsum(positions) - positions,
        {name: array for name, array in joined.items() if axes[name] == "rows"},
        {name: array for name, array in joined.items() if axes[name] == "positions"},
    )
