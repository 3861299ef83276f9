"""The caches beside a stream's first one: what other teachers said of the same rows.

The first cache says which rows there are, in which order and views; of the others the
corresponding rows are read, wherever their parts begin and end. It knows no batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import CacheError
from pipeline.store import Cache
from pipeline.stream.same_rows import check_plans, check_rows, spec_of
from pipeline.stream.window import Array, Window
from pipeline.targets import (
    STATISTICS,
    Basis,
    Mixture,
    Targets,
    TargetSpec,
    decode,
    decode_basis,
    decode_feature,
    feature_field,
    feature_widths,
    mix_targets,
    target_fields,
)

Fields = Mapping[str, NDArray[Any]]


@dataclass
class Neighbour:
    """One further cache, and which of its parts have been checked or have a position a row."""

    cache: Cache
    # Of its fields in a window, among those of other caches.
    prefix: str
    names: Sequence[str]
    features: Sequence[str]
    spec: TargetSpec
    basis: Basis | None
    unread: set[int]
    single: set[int] = field(default_factory=set)

    def read(self, ranges: Sequence[range]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Read ranges of rows, in ascending order; parts that hold several of them once.

        Shapes: returns fields over rows and over positions, of all rows one after another.
        Raises: CorruptPart if a file is damaged.
        """
        pieces: dict[str, list[Array]] = {name: [] for name in self.names}
        axes = {each.name: each.axis for each in self.cache.plan.fields}
        held: tuple[int, dict[str, Array]] | None = None
        for part, rows in self._pieces(ranges):
            if held is None or held[0] != part:
                held = None  # let go of the old part before the new one is read
                held = part, self._read_part(part)
            cuts = {"rows": rows, "positions": self._positions(part, rows)}
            for name, array in held[1].items():
                pieces[name].append(array[cuts[axes[name]]])
            self.unread.discard(part)
        # Popped, so that never more than one field is in memory twice.
        joined = {name: np.concatenate(pieces.pop(name)) for name in self.names}
        over_rows, over_positions = (
            {self.prefix + name: array for name, array in joined.items() if axes[name] == axis}
            for axis in ("rows", "positions")
        )
        return over_rows, over_positions

    def decode(self, fields: Fields) -> Targets:
        """Read this cache's targets out of the fields of a batch."""
        own = {
            name.removeprefix(self.prefix): array
            for name, array in fields.items()
            if name.startswith(self.prefix)
        }
        return decode(self.spec, own, self.basis)

    def decode_features(self, fields: Fields) -> dict[str, Tensor]:
        """Read the features that are this cache's out of the fields of a batch."""
        return {
            name: decode_feature(fields[self.prefix + feature_field(name)])
            for name in self.features
        }

    def _read_part(self, part: int) -> dict[str, Array]:
        return self.cache.read_part(part, self.names, check=part in self.unread)

    def _pieces(self, ranges: Sequence[range]) -> Iterator[tuple[int, slice]]:
        """Cut ranges of rows at the borders of parts; slices count from the part's first row."""
        size = self.cache.plan.rows_per_part
        for rows in ranges:
            start = rows.start
            while start < rows.stop:
                part = start // size
                stop = min(rows.stop, (part + 1) * size)
                yield part, slice(start - part * size, stop - part * size)
                start = stop

    def _positions(self, part: int, rows: slice) -> slice:
        if part in self.single:
            return rows
        counts = self.cache.read_samples(part, check=part in self.unread).positions
        if bool((counts == 1).all()):
            self.single.add(part)
            return rows
        ends = np.concatenate([[0], np.cumsum(counts)])
        return slice(int(ends[rows.start]), int(ends[rows.stop]))


@dataclass(frozen=True)
class Beside:
    """All caches beside the first one; `weights` are of that one and of each of these."""

    neighbours: tuple[Neighbour, ...]
    weights: tuple[float, ...]

    def widen(self, window: Window, ranges: Sequence[range]) -> Window:
        """Give a window of the first cache, of these ranges of rows, the fields of all."""
        for neighbour in self.neighbours:
            over_rows, over_positions = neighbour.read(ranges)
            window = replace(
                window,
                over_rows={**window.over_rows, **over_rows},
                over_positions={**window.over_positions, **over_positions},
            )
        return window

    def mix(self, targets: Targets, fields: Fields) -> Mixture:
        """Put the first cache's targets of a batch together with all others."""
        others = [neighbour.decode(fields) for neighbour in self.neighbours]
        return mix_targets([targets, *others], self.weights)

    def decode_features(self, fields: Fields) -> dict[str, Tensor]:
        """Read the features of a batch that the first cache does not keep."""
        found: dict[str, Tensor] = {}
        for neighbour in self.neighbours:
            found |= neighbour.decode_features(fields)
        return found


def open_beside(
    caches: Sequence[Cache],
    weights: Sequence[float],
    *,
    statistics: Sequence[str],
    features: Sequence[str],
    check: bool,
) -> Beside:
    """Open what is read of all caches but the first, which must be of the same rows.

    Raises: TargetError if they are of other classes, SampleError if they are of other rows;
        CacheError if a feature is in none of them.
    """
    first, *others = caches
    for other in others:
        check_plans(first, other)
        if check:
            check_rows(first, other)
    found = find_features(caches, features)
    neighbours = []
    for number, cache in enumerate(others, 1):
        spec, own = spec_of(cache), found[number]
        neighbours.append(
            Neighbour(
                cache,
                prefix=f"{number}/",
                names=[*field_names(spec, statistics), *map(feature_field, own)],
                features=own,
                spec=spec,
                basis=decode_basis(cache.read_shared()) if spec.rank else None,
                unread=set(range(cache.plan.part_count)) if check else set(),
            )
        )
    return Beside(tuple(neighbours), tuple(weights))


def find_features(caches: Sequence[Cache], names: Sequence[str]) -> list[list[str]]:
    """Say which of the features each cache is read for: the first one that keeps it.

    Raises: CacheError if one is in none of them.
    """
    kept = [feature_widths(cache.plan.fields) for cache in caches]
    if missing := [name for name in names if not any(name in each for each in kept)]:
        described = "; ".join(
            f"{cache.path} has {', '.join(each) or 'none'}"
            for cache, each in zip(caches, kept, strict=True)
        )
        raise CacheError(
            f"stream: no cache keeps the feature '{missing[0]}': {described}. Name one of these, "
            "or cache it with [[features]]."
        )
    chosen = [next(place for place, each in enumerate(kept) if name in each) for name in names]
    return [
        [name for name, place in zip(names, chosen, strict=True) if place == number]
        for number in range(len(caches))
    ]


def field_names(spec: TargetSpec, statistics: Sequence[str]) -> list[str]:
    """List the fields that targets are decoded from; of the statistics only those asked for."""
    unread = set(STATISTICS) - set(statistics)
    return [each.name for each in target_fields(spec) if each.name not in unread]
