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

from pipeline.errors import TargetError
from pipeline.kept_targets import basis_of, spec_of
from pipeline.store import Cache
from pipeline.stream.chosen import OF_TABLE
from pipeline.stream.several.same_rows import check_plans, check_rows
from pipeline.stream.windows.large import LargeFields, as_blocks, split_large
from pipeline.stream.windows.window import Array, Window
from pipeline.targets import (
    STATISTICS,
    Basis,
    FeatureSpec,
    Mixture,
    Targets,
    TargetSpec,
    decode,
    decode_feature,
    mix_targets,
    read_specs,
    target_fields,
)

Fields = Mapping[str, NDArray[Any]]


@dataclass
class Neighbour:
    """One further cache, and which of its parts have been checked or have a position a row.

    `prefix` tells its fields in a window from those of other caches.
    """

    cache: Cache
    prefix: str
    names: Sequence[str]
    large: LargeFields
    features: Mapping[str, FeatureSpec]
    spec: TargetSpec
    basis: Basis | None
    unread: set[int]
    single: set[int] = field(default_factory=set)

    def widen(self, window: Window, ranges: Sequence[range]) -> Window:
        """Give a window of ascending ranges of rows the fields that this cache has of them.

        Raises: CorruptPart if a file is damaged.
        """
        pieces: dict[str, list[Array]] = {name: [] for name in (*self.names, *self.large.names)}
        axes = {each.name: each.axis for each in self.cache.plan.fields}
        held: tuple[int, dict[str, Array]] | None = None
        for part, rows in self._pieces(ranges):
            if held is None or held[0] != part:
                held = None  # let go of the old part before the new one is read
                held = part, self._read_part(part)
            cuts = {"rows": rows, "positions": self._positions(part, rows)}
            for name, array in held[1].items():
                pieces[name].append(_cut(array, cuts[axes[name]]))
            self.unread.discard(part)
        # Popped, so that never more than one field is in memory twice.
        joined = {name: np.concatenate(pieces.pop(name)) for name in self.names}
        over_rows, over_positions = (
            {self.prefix + name: array for name, array in joined.items() if axes[name] == axis}
            for axis in ("rows", "positions")
        )
        large = {
            self.prefix + name: (as_blocks(blocks), axes[name]) for name, blocks in pieces.items()
        }
        return replace(
            window,
            over_rows={**window.over_rows, **over_rows},
            over_positions={**window.over_positions, **over_positions},
            large={**window.large, **large},
        )

    def decode(self, fields: Fields) -> Targets:
        """Read this cache's targets out of the fields of a batch."""
        return decode(self.spec, self._own(fields), self.basis)

    def decode_features(self, fields: Fields) -> dict[str, Tensor]:
        """Read the features that are this cache's out of the fields of a batch."""
        own = self._own(fields)
        return {name: decode_feature(spec, own) for name, spec in self.features.items()}

    def _own(self, fields: Fields) -> Fields:
        return {
            name.removeprefix(self.prefix): array
            for name, array in fields.items()
            if name.startswith(self.prefix)
        }

    def _read_part(self, part: int) -> dict[str, Array]:
        check = part in self.unread
        arrays = self.cache.read_part(part, self.names, check=check)
        large = self.large.read(self.cache, part) if self.large.names else {}
        return arrays | large

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
            window = neighbour.widen(window, ranges)
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
    statistics: Sequence[str] | None,
    features: Sequence[Mapping[str, FeatureSpec]],
    check: bool,
) -> Beside:
    """Open what is read of all caches but the first, which must be of the same rows.

    `features` are those of each cache; without `statistics` no targets are read.

    Raises: TargetError if they are of other classes, SampleError if they are of other rows.
    """
    first, *others = caches
    for other in others:
        check_plans(first, other)
        if check:
            check_rows(first, other)
    neighbours = []
    for number, cache in enumerate(others, 1):
        spec, own = spec_of(cache), features[number]
        names = [] if statistics is None else field_names(spec, statistics)
        names += [each.name for feature in own.values() for each in feature.fields]
        small, large = split_large(cache, names)
        unread = set(range(cache.plan.part_count)) if check else set[int]()
        neighbours.append(
            Neighbour(
                cache,
                prefix=f"{number}/",
                names=small,
                large=LargeFields(large, set(unread)),
                features=own,
                spec=spec,
                basis=basis_of(cache),
                unread=unread,
            )
        )
    return Beside(tuple(neighbours), tuple(weights))


def find_features(caches: Sequence[Cache], names: Sequence[str]) -> list[dict[str, FeatureSpec]]:
    """Say which of the features each cache is read for: the first one that keeps it.

    Raises: TargetError if one is in none of them.
    """
    kept = [read_specs(cache.plan.about, cache.plan.fields) for cache in caches]
    chosen: list[dict[str, FeatureSpec]] = [{} for _ in caches]
    for name in names:
        place = next((place for place, specs in enumerate(kept) if name in specs), None)
        if place is None:
            named = " and ".join(str(cache.path) for cache in caches)
            shown = ", ".join(dict.fromkeys(name for specs in kept for name in specs)) or "none"
            raise TargetError(
                f"{named}: keeps no feature '{name}'; it has {shown}. "
                "Name one of those, or cache again with it in [[features]]."
            )
        chosen[place][name] = kept[place][name]
    return chosen


def _cut(array: Array, rows: slice) -> Array:
    """Take some of a part, so that the rest of it need not stay in memory; maps cost none."""
    piece = array[rows]
    return piece.copy() if len(piece) < len(array) and array.flags.writeable else piece


def no_targets(caches: Sequence[Cache], weights: Sequence[float]) -> Targets | Mixture:
    """Give targets of no positions, by which a loss can tell what it cannot make of these caches.

    Raises: CorruptPart if what the parts of a cache share is damaged.
    """
    members = []
    for cache in caches:
        spec = spec_of(cache)
        arrays = {each.name: np.empty((0, *each.shape), each.dtype) for each in target_fields(spec)}
        targets = decode(spec, arrays, basis_of(cache))
        # A stream weighs positions by a table of pseudo-labels, or each as much as any other.
        told = {**targets.statistics, OF_TABLE: targets.logits.new_empty(0)}
        members.append(replace(targets, statistics=told))
    return members[0] if len(members) == 1 else mix_targets(members, weights)


def field_names(spec: TargetSpec, statistics: Sequence[str]) -> list[str]:
    """List the fields that targets are decoded from; of the statistics only those asked for."""
    unread = set(STATISTICS) - set(statistics)
    return [each.name for each in target_fields(spec) if each.name not in unread]
