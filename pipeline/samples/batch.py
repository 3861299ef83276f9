"""What every dataset offers: ids by range, samples by index, and a digest of each sample's content.

Knows nothing of files, of models or of what a dataset is used for.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError

Indices: TypeAlias = Sequence[int] | NDArray[np.int64]
DIGEST_BYTES = 16
# Ids, or numbers or text of which they are made: of a batch of small images that takes as long as
# to copy it, and most batches are never asked for them.
Names: TypeAlias = list[str] | NDArray[Any]
UNLABELLED = -1


@dataclass(frozen=True)
class Mixed:
    """Of samples that are mixed with a partner each: its label, and the share that is their own.

    Shapes: labels and shares (B,).
    """

    labels: NDArray[np.int64]
    shares: NDArray[np.float32]


@dataclass(frozen=True)
class SampleBatch:
    """Some samples, as the model will see them before normalisation.

    `names` are the ids, or numbers or text of which they are made when somebody asks for them.

    Shapes: names (B,); inputs (B, ...), images uint8 (B, channels, height, width); labels (B,), -1
        where there is none.
    """

    names: Names
    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    mixed: Mixed | None = None

    @cached_property
    def ids(self) -> list[str]:
        """The samples' lasting ids."""
        return spell(self.names)

    def cut(self, rows: slice) -> "SampleBatch":
        """Give some rows, which share memory with all."""
        mixed = self.mixed and Mixed(self.mixed.labels[rows], self.mixed.shares[rows])
        return SampleBatch(self.names[rows], self.inputs[rows], self.labels[rows], mixed)


class Samples(Protocol):
    """A dataset: a length, and for every sample a lasting id, an input and perhaps a label."""

    @property
    def name(self) -> str:
        """The dotted key of the recipe, such as `data.train`; every message begins with it."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, if they are known."""

    def __len__(self) -> int: ...

    def ids(self, start: int, stop: int) -> list[str]:
        """Name the samples of a range, without decoding their inputs where that can be helped."""

    def read(self, indices: Indices) -> SampleBatch:
        """Read one or more samples in the order of `indices`, which may repeat.

        Raises: SampleError if one cannot be read, or their shapes differ.
        """


@runtime_checkable
class KnowsLabels(Protocol):
    """A dataset that can give labels without decoding inputs."""

    def labels(self, indices: Indices) -> NDArray[np.int64]:
        """Give the labels of `indices`, -1 where there is none."""


@runtime_checkable
class Holds(Protocol):
    """A dataset that can read many samples faster at once than a few at a time."""

    def hold(self, indices: NDArray[np.int64], asked: int) -> Samples:
        """Give the same samples, of which those at `indices` are in memory if that is worth it, for
        `asked` of them will be read in any order.
        """


def hold_samples(samples: Samples, indices: NDArray[np.int64], asked: int) -> Samples:
    """Prepare for some samples to be read in any order, if the dataset can.

    Shapes: indices (n,).
    """
    return samples.hold(indices, asked) if isinstance(samples, Holds) else samples


def spell(names: Names) -> list[str]:
    """Make ids of what they are made of."""
    if isinstance(names, list):
        return names
    found: list[Any] = names.tolist()
    if names.dtype.kind == "U":
        return found
    return [each.decode() if isinstance(each, bytes) else str(each) for each in found]


def content_digests(inputs: NDArray[Any]) -> NDArray[np.uint8]:
    """Digest each sample by its dtype, its shape and its bytes, little-endian and in C order.

    Shapes: inputs (B, ...); returns (B, 16).
    Source: BLAKE2b, RFC 7693, with 16 bytes of digest.
    """
    described = f"{inputs.dtype.newbyteorder('<').str}{inputs.shape[1:]}"
    header = hashlib.blake2b(described.encode(), digest_size=DIGEST_BYTES)
    digests = []
    for content in content_views(inputs):
        digest = header.copy()
        digest.update(content)
        digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def content_views(inputs: NDArray[Any]) -> Iterator[memoryview]:
    """Look at the bytes of each sample, little-endian and in C order. Shapes: inputs (B, ...)."""
    little = np.ascontiguousarray(inputs, dtype=inputs.dtype.newbyteorder("<"))
    flat = little.reshape(len(inputs), math.prod(inputs.shape[1:]))
    size = flat.shape[1] * flat.itemsize
    content = flat.view(np.uint8).reshape(-1).data
    for start in range(0, len(flat) * size, size) if size else [0] * len(flat):
        yield content[start : start + size]


def stack_inputs(where: str, ids: Sequence[str], inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Stack inputs into one array.

    Shapes: inputs B of (...); returns (B, ...).
    Raises: SampleError if a shape or a dtype differs from the first's.
    """
    first = inputs[0]
    for sample_id, each in zip(ids, inputs, strict=True):
        if (each.shape, each.dtype) != (first.shape, first.dtype):
            raise SampleError(
                f"{where}: {sample_id} has shape {each.shape} {each.dtype}, but {ids[0]} has "
                f"{first.shape} {first.dtype}; all samples must be alike"
            )
    return np.stack(inputs)


def ids_at(samples: Samples, indices: NDArray[np.int64]) -> list[str]:
    """Name the samples at any indices, by reading the few ranges that cover them.

    Shapes: indices (B,); returns B ids.
    """
    # Neighbours this close are cheaper in one call; far ones must not read all between.
    nearby = 64
    order = np.argsort(indices, kind="stable")
    ascending = indices[order]
    names: list[str] = [""] * len(indices)
    for run in np.split(np.arange(len(indices)), np.flatnonzero(np.diff(ascending) > nearby) + 1):
        if len(run):
            start = int(ascending[run[0]])
            covered = samples.ids(start, int(ascending[run[-1]]) + 1)
            for place in run:
                names[order[place]] = covered[ascending[place] - start]
    return names


def read_labels(samples: Samples, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the labels at any indices, decoding inputs only where the dataset leaves no other way.

    Shapes: indices (B,); returns (B,).
    """
    if isinstance(samples, KnowsLabels):
        return samples.labels(indices)
    step = 256
    starts = range(0, len(indices), step)
    blocks = [samples.read(indices[start : start + step]).labels for start in starts]
    return np.concatenate([np.empty(0, dtype=np.int64), *blocks])


def as_indices(indices: Indices, count: int) -> NDArray[np.int64]:
    """Make an array of `indices` and hold it to the range of the dataset.

    Shapes: returns (B,).
    """
    array = np.asarray(indices, dtype=np.int64)
    if len(array) and not (array.min() >= 0 and array.max() < count):
        raise IndexError(f"indices {array.min()} to {array.max()} of {count} samples")
    return array


def name_some(names: Sequence[str], count: int) -> str:
    """List the first five names and count the others, which need not be given."""
    shown = list(names[:5])
    more = count - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
