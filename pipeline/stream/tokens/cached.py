"""Samples that are the rows of tokens in a cache: a student's data without text or tokenizer.

Parts are read once, one at a time, checked against their records; from then on tokens and ids lie
in unnamed temporary files, so that rows in any order cost what they cost of text, and no memory.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.samples import Maskable, SampleBatch, Tokens
from pipeline.samples.batch import Indices, as_indices
from pipeline.samples.text.tokens import Task
from pipeline.store import Cache, open_cache
from pipeline.stream.tokens.rows import decode_rows, decode_token_counts
from pipeline.temporary import TemporaryArray

# The fields that a row of tokens is built from.
ROW = ("tokens", "sizes", "starts")
# Where the id of a row lies among all ids, and its label.
PLACE = np.dtype([("start", "<i8"), ("size", "<i4"), ("label", "<i8")])


@dataclass(frozen=True)
class CachedSamples:
    """The samples that a cache was made from, each by its first view."""

    name: str
    class_names: tuple[str, ...] | None
    tokens: Tokens
    rows: TemporaryArray
    places: TemporaryArray
    names: TemporaryArray

    def __len__(self) -> int:
        return self.rows.count

    def ids(self, start: int, stop: int) -> list[str]:
        """Name the rows of a range, as the samples were named."""
        places = self.places.read(start, min(stop, len(self)))
        return self._names(places) if len(places) else []

    def read(self, indices: Indices) -> SampleBatch:
        """Build rows of tokens again."""
        wanted = as_indices(indices, len(self))
        places = _gather(self.places, wanted)
        rows = _gather(self.rows, wanted)
        inputs = decode_rows({name: rows[name] for name in ROW})
        ids = [self._names(places[each : each + 1])[0] for each in range(len(places))]
        return SampleBatch(ids, inputs, places["label"].astype(np.int64))

    def labels(self, indices: Indices) -> NDArray[np.int64]:
        """Give the labels of `indices`, -1 where there is none."""
        labels = _gather(self.places, as_indices(indices, len(self)))["label"]
        return labels.astype(np.int64)

    def _names(self, places: NDArray[Any]) -> list[str]:
        """Name rows whose ids follow one another."""
        first, sizes = int(places["start"][0]), places["size"].astype(int)
        content = self.names.read(first, first + int(sizes.sum())).tobytes()
        ends = np.cumsum(sizes).tolist()
        cuts = zip(ends, sizes.tolist(), strict=True)
        return [content[end - size : end].decode() for end, size in cuts]


def open_cached(
    *, base: Path, name: str, path: str, class_names: Sequence[str] | None = None
) -> CachedSamples:
    """Open the rows of tokens that a complete cache holds.

    Raises: SampleError if it holds none; CacheError if there is no complete cache; CorruptPart if
        a part of it is damaged.
    """
    cache = open_cache(path if "://" in path else base / path)
    tokens = _tokens(name, cache)
    named = class_names or cache.plan.about["class_names"]
    fields = [field for field in cache.plan.fields if field.name in ROW]
    entry = [(field.name, field.numpy_dtype, field.shape) for field in fields]
    samples = CachedSamples(
        name=name,
        class_names=tuple(named) if named else None,
        tokens=tokens,
        rows=TemporaryArray(np.dtype(entry)),
        places=TemporaryArray(PLACE),
        names=TemporaryArray(np.dtype("u1")),
    )
    views = cache.plan.about.get("views", {"count": 1})["count"]
    for part in range(-(-(cache.plan.rows // views) // cache.plan.rows_per_part)):
        _add(samples, cache, part)
    return samples


def _tokens(name: str, cache: Cache) -> Tokens:
    about = cache.plan.about.get("tokens")
    if about is None:
        raise SampleError(
            f"{name}.path: {cache.path} holds no tokens: it is not of text, or was made before "
            "they were kept. Give the data that it was made from."
        )
    if about["task"] not in get_args(Task):
        raise SampleError(
            f"{name}.path: {cache.path} asks for '{about['task']}'; this software knows "
            f"{', '.join(get_args(Task))}. Use the software that made the cache, or a newer one."
        )
    vocabulary, views = about["vocabulary"], cache.plan.about.get("views")
    maskable = None
    if views:
        counts = decode_token_counts(cache.read_shared(), vocabulary)
        maskable = Maskable(views["mask"]["token"], counts)
    return Tokens(about["task"], vocabulary, about["tokenizer"], maskable)


def _add(samples: CachedSamples, cache: Cache, part: int) -> None:
    """Copy the rows of a part that are of the first view; those of others have the same tokens."""
    table = cache.read_samples(part)
    arrays = cache.read_part(part, ROW)
    is_first = table.views == 0
    rows = np.empty(int(is_first.sum()), samples.rows.dtype)
    for name, array in arrays.items():
        rows[name] = array[is_first]
    names = [each.encode() for each in itertools.compress(table.ids, is_first)]
    places = np.empty(len(names), PLACE)
    places["label"] = table.labels[is_first]
    places["size"] = [len(each) for each in names]
    places["start"] = samples.names.count + np.cumsum(places["size"]) - places["size"]
    samples.rows.append(rows)
    samples.places.append(places)
    samples.names.append(np.frombuffer(b"".join(names), np.uint8))


def _gather(entries: TemporaryArray, indices: NDArray[np.int64]) -> NDArray[Any]:
    """Read entries in any order; those that follow one another are one read."""
    first, count = int(indices[0]), len(indices)
    if np.array_equal(indices, np.arange(first, first + count)):
        return entries.read(first, first + count)
    return np.concatenate([entries.read(index, index + 1) for index in indices.tolist()])
