"""How targets are read back from a cache: what was kept, in which fields, and by which basis.

Knows caches and targets; not who asks, nor for which positions.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from pipeline.store import Cache
from pipeline.targets import (
    STATISTICS,
    Basis,
    Targets,
    TargetSpec,
    decode,
    decode_basis,
    target_fields,
)


def spec_of(cache: Cache) -> TargetSpec:
    """Read how a cache says its targets were kept."""
    return TargetSpec.from_json(cache.plan.about["targets"])


def basis_of(cache: Cache) -> Basis | None:
    """Read what all parts of a cache share of the tail's shape; None where that was not kept.

    Raises: CorruptPart if it is damaged.
    """
    spec = spec_of(cache)
    return decode_basis(cache.read_shared(), spec) if spec.rank else None


@dataclass(frozen=True)
class KeptTargets:
    """The targets of a cache, of which any part can be read and decoded."""

    cache: Cache

    @cached_property
    def spec(self) -> TargetSpec:
        """What was kept of each answer."""
        return spec_of(self.cache)

    @cached_property
    def basis(self) -> Basis | None:
        """What all parts share."""
        return basis_of(self.cache)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The fields that are there; older caches lack some."""
        there = {field.name for field in self.cache.plan.fields}
        return tuple(each.name for each in target_fields(self.spec) if each.name in there)

    def decode(
        self, arrays: Mapping[str, NDArray[Any]], statistics: Collection[str] = STATISTICS
    ) -> Targets:
        """Read the targets back of some of its arrays. Shapes: arrays (P, ...)."""
        return decode(self.spec, arrays, self.basis, statistics)
