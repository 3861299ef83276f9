"""What is known of samples beside themselves: which fields of caches are read for it, and how a
batch is told of it.

It knows fields by name, and neither samples nor the order in which rows come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pipeline.kept_targets import basis_of, spec_of
from pipeline.store import Cache
from pipeline.stream.batch import Fields, Held, as_tensor, concatenate
from pipeline.stream.chosen import LABEL, OF_TABLE, WEIGHT
from pipeline.stream.several.beside import Beside, field_names, find_features, open_beside
from pipeline.stream.stored import Picked, Stored, find_whole
from pipeline.stream.windows.large import split_large
from pipeline.stream.windows.loader import FindWhole
from pipeline.targets import (
    Basis,
    FeatureSpec,
    Mixture,
    PseudoLabels,
    TargetSpec,
    decode_feature,
)

# As a batch has them, and in its order: targets as they lie or as they were made, features by name,
# and pseudo-labels.
BesideSamples = tuple[
    Stored | Picked | None, Mixture | None, dict[str, Tensor], PseudoLabels | None
]


@dataclass(frozen=True)
class Known:
    """What is read of the first cache, the others beside it, and whether there are pseudo-labels.

    `targets` are the fields of soft targets, none where they are not asked for; `small` and `large`
    are all fields that are read, by how much a row of them takes.
    """

    spec: TargetSpec | None
    basis: Basis | None
    targets: tuple[str, ...]
    features: Mapping[str, FeatureSpec]
    small: Sequence[str]
    large: Sequence[str]
    statistics: tuple[str, ...]
    beside: Beside | None
    has_pseudo_labels: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that are read, those first of which a row is small."""
        return *self.small, *self.large

    @property
    def find_whole(self) -> FindWhole | None:
        """How the targets of a window are found, where they are all that a batch wants of it, and
        of one cache.
        """
        if not (self.spec and self.targets) or self.beside or OF_TABLE in self.statistics:
            return None
        names, asked = self.targets, self.statistics
        return partial(find_whole, spec=self.spec, names=names, basis=self.basis, asked=asked)

    def tell(self, held: Sequence[Held]) -> BesideSamples:
        """Put together what is known of a batch's pieces."""
        fields, picked = concatenate(held)
        pseudo, mixture = None, None
        stored: Stored | Picked | None = picked
        if self.has_pseudo_labels:
            pseudo = PseudoLabels(as_tensor(fields[LABEL]), as_tensor(fields[WEIGHT]))
        if self.spec and self.targets and picked is None:
            stored = self._stored(self.spec, fields, pseudo)
        features = {name: decode_feature(spec, fields) for name, spec in self.features.items()}
        if self.beside:
            features |= self.beside.decode_features(fields)
            mixture = self.beside.mix(stored.decode(), fields) if stored else None
        return stored, mixture, features, pseudo

    def _stored(self, spec: TargetSpec, fields: Fields, pseudo: PseudoLabels | None) -> Stored:
        own = {name: as_tensor(fields[name]) for name in self.targets}
        statistics = {}
        if OF_TABLE in self.statistics:
            rows = len(next(iter(own.values())))
            statistics[OF_TABLE] = pseudo.weights if pseudo else torch.ones(rows)
        return Stored(spec, own, self.basis, statistics, self.statistics)


def open_known(
    caches: Sequence[Cache],
    weights: Sequence[float],
    *,
    features: Sequence[str],
    statistics: Sequence[str],
    is_soft: bool,
    has_pseudo_labels: bool,
    check: bool,
) -> Known:
    """Decide what is read of some caches, the first of which says what the others are compared by.

    Raises: TargetError if one has no such feature, or they are of other classes; SampleError if
        they are of other rows.
    """
    cache = caches[0] if caches else None
    found = find_features(caches, features) if caches else [{}]
    spec = spec_of(cache) if cache else None
    kept = [each for each in statistics if each != OF_TABLE]
    targets = field_names(spec, kept) if spec and is_soft else []
    names = [*targets, *(each.name for own in found[0].values() for each in own.fields)]
    small, large = split_large(cache, names) if cache else ([], [])
    beside = None
    if len(caches) > 1:
        asked = kept if is_soft else None
        beside = open_beside(caches, weights, statistics=asked, features=found, check=check)
    return Known(
        spec,
        basis_of(cache) if cache else None,
        tuple(targets),
        found[0],
        small,
        large,
        tuple(statistics),
        beside,
        has_pseudo_labels,
    )
