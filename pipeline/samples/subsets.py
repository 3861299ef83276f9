"""Datasets made of some samples of another: a seeded subset, or all but those that were skipped.

Both are one view: an ascending array of indices, 8 bytes a sample. It copies nothing and knows no
kind of file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.samples.batch import (
    Indices,
    SampleBatch,
    Samples,
    as_indices,
    hold_samples,
    ids_at,
    name_some,
    read_labels,
)
from pipeline.samples.text.tokens import Tokens, tokens_of


@dataclass(frozen=True)
class Subset:
    """Some samples of another dataset, in that dataset's order.

    Shapes: indices (number of samples,), ascending.
    """

    samples: Samples
    indices: NDArray[np.int64]

    @property
    def name(self) -> str:
        """The name of the dataset behind."""
        return self.samples.name

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names of the dataset behind."""
        return self.samples.class_names

    @property
    def tokens(self) -> Tokens | None:
        """What kind of text the dataset behind holds."""
        return tokens_of(self.samples)

    def __len__(self) -> int:
        return len(self.indices)

    def ids(self, start: int, stop: int) -> list[str]:
        """Name the samples of a range."""
        return ids_at(self.samples, self.indices[start:stop])

    def read(self, indices: Indices) -> SampleBatch:
        """Read samples in the order of `indices`."""
        return self.samples.read(self.indices[as_indices(indices, len(self))])

    def hold(self, indices: NDArray[np.int64], asked: int) -> "Subset":
        """Give the same samples, of which those at `indices` are in memory if that is worth it."""
        return Subset(hold_samples(self.samples, self.indices[indices], asked), self.indices)

    def labels(self, indices: Indices) -> NDArray[np.int64]:
        """Give the labels of `indices`."""
        return read_labels(self.samples, self.indices[as_indices(indices, len(self))])


def subset(
    samples: Samples, *, count: int | None = None, seed: int, balanced: bool = False, skip: int = 0
) -> Subset:
    """Choose `count` samples by a seeded permutation; `balanced` takes equally many of each class.

    With one seed, a smaller subset is contained in a larger one; with `skip` the first so many are
    left out, so that subsets of one seed can share no sample. Without a count all others are taken.
    The order of the dataset is kept.

    Raises: SampleError if there are too few samples, in all or of a class, or no labels.
    """
    total = len(samples)
    if count is not None and not 0 < count <= total - skip:
        after = f" after the first {skip:,}" if skip else ""
        raise SampleError(
            f"{samples.name}: a subset of {count:,} cannot be taken; "
            f"count must be between 1 and {total - skip:,}, the number of samples{after}"
        )
    if not 0 <= skip < total:
        raise SampleError(
            f"{samples.name}: a subset cannot skip {skip:,} samples; there are {total:,}"
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(total)
    first = _first(samples, order, skip, balanced)
    if count is None:
        return Subset(samples, np.delete(np.arange(total), first))
    chosen = _first(samples, order, skip + count, balanced)
    return Subset(samples, np.setdiff1d(chosen, first))


def _first(
    samples: Samples, order: NDArray[np.int64], count: int, balanced: bool
) -> NDArray[np.int64]:
    return _balanced(samples, order, count) if balanced and count else order[:count]


def without(samples: Samples, skipped: Sequence[int]) -> Samples:
    """Leave out the samples at the indices `skipped`; with none to skip, `samples` itself."""
    if len(skipped) == 0:
        return samples
    places = as_indices(skipped, len(samples))
    return Subset(samples, np.delete(np.arange(len(samples)), places))


def _balanced(samples: Samples, order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Shapes: order (number of samples,), permuted; returns (count,)."""
    labels = read_labels(samples, np.arange(len(samples)))[order]
    classes = _classes(samples, labels)
    each, left = divmod(count, len(classes))
    if left:
        raise SampleError(
            f"{samples.name}: a balanced subset of {count:,} over {len(classes):,} classes is not "
            f"equal; take a multiple of {len(classes):,}, such as {count - left or len(classes):,}"
        )
    places = [np.flatnonzero(labels == label)[:each] for label in classes]
    short = [
        f"{_class_name(samples, label)} ({len(place):,})"
        for label, place in zip(classes, places, strict=True)
        if len(place) < each
    ]
    if short:
        raise SampleError(
            f"{samples.name}: a balanced subset of {count:,} needs {each:,} samples of every "
            f"class; too few of {name_some(short, len(short))}; take fewer"
        )
    return order[np.concatenate(places)]


def _classes(samples: Samples, labels: NDArray[np.int64]) -> list[int]:
    present = np.unique(labels[labels >= 0]).tolist()
    if not present:
        raise SampleError(
            f"{samples.name}: a balanced subset needs labels, and no sample has one; "
            "name the labels in the recipe, or leave balanced out"
        )
    return present if samples.class_names is None else list(range(len(samples.class_names)))


def _class_name(samples: Samples, label: int) -> str:
    return f"class {label}" if samples.class_names is None else samples.class_names[label]
