"""Fields of which a row is large, such as feature maps or a row of tokens: left where they lie
until a batch is made.

Copying a window of them would cost more than the batches made of it, so parts are mapped into
memory where their files are raw, and rows are copied once, straight into the batch.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from pipeline.store import Cache
from pipeline.stream.windows.adjacent import side_by_side
from pipeline.stream.windows.expected import Expected
from pipeline.stream.windows.size import row_bytes

Array = NDArray[np.generic]
Empty = Callable[[tuple[int, ...], Any], NDArray[Any]]
# Below it, rows are copied faster from one array than from one of several.
LARGE_BYTES = 1024
# Of maps that stay open for the next epoch, for making them anew costs as much as reading them.
KEPT_BYTES = 2**30
# Of which parts are read side by side: more would keep those of a student for long.
MOST_CORES = 4


def split_large(cache: Cache, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell the fields apart of which a row has many bytes; gives the others, and these."""
    large = {each.name for each in cache.plan.fields if row_bytes(cache.plan, each) >= LARGE_BYTES}
    return [name for name in names if name not in large], [name for name in names if name in large]


@dataclass(frozen=True)
class LargeFields:
    """The large fields of a cache, part by part; those read last stay mapped, 1 GiB of them.

    Parts that are `unread` are checked when they are read first.
    """

    names: Sequence[str]
    unread: set[int] = field(default_factory=set)
    parts: OrderedDict[int, dict[str, Array]] = field(default_factory=OrderedDict)

    def read(self, cache: Cache, part: int) -> dict[str, Array]:
        """Give the arrays of a part; read-only maps of its files where those are raw.

        Raises: CorruptPart if a file is damaged.
        """
        # Several threads read: each step here is one that others see whole or not at all.
        if (there := self.parts.get(part)) is not None:
            with suppress(KeyError):  # another thread has let it go meanwhile
                self.parts.move_to_end(part)
            return there
        arrays = cache.read_part(part, self.names, check=part in self.unread, mapped=True)
        self.unread.discard(part)
        # Arrays of their own are the window's to hold; only maps cost no memory.
        if not any(array.flags.writeable for array in arrays.values()):
            self.parts[part] = arrays
            self._let_go()
        return arrays

    def _read_one(self, part: int, expected: Expected) -> dict[str, Array]:
        expected.tell()
        return self.read(expected.cache, part)

    def read_all(self, cache: Cache, parts: Sequence[int]) -> "Reading":
        """Read some parts on all cores, those first that are asked for first.

        Rows in random order are soon wanted of all of them, and reading is mostly checking or
        decompressing, which threads do side by side.
        """
        there = {part: self.parts[part] for part in parts if part in self.parts}
        if len(there) == len(parts):
            return Reading(lambda number: there[parts[number]])
        if cache.is_growing:  # a thread that waits for a part might wait for ever
            return Reading(lru_cache(maxsize=None)(lambda number: self.read(cache, parts[number])))
        coming = dict[int, Future[dict[str, Array]]]()
        pool = ThreadPoolExecutor(_cores(), thread_name_prefix="read")

        def ask(first: Iterable[int]) -> None:
            if not coming:
                numbers = list(dict.fromkeys([*first, *range(len(parts))]))
                expected = Expected(cache, self.names, iter([parts[each] for each in numbers]))
                for number in numbers:
                    coming[number] = pool.submit(self._read_one, parts[number], expected)
                pool.shutdown(wait=False)

        reading = Reading(lambda number: coming[number].result(), ask)
        # What nobody waits for any more is not read, or the end of a process would wait for it.
        finalize(reading, pool.shutdown, wait=False, cancel_futures=True).atexit = False
        return reading

    def _let_go(self) -> None:
        kept = list(self.parts.values())
        sizes = [sum(each.nbytes for each in arrays.values()) for arrays in kept]
        while len(sizes) > 1 and sum(sizes) > KEPT_BYTES:
            self.parts.popitem(last=False)
            sizes.pop(0)


def _cores() -> int:
    return min(MOST_CORES, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def _nothing(numbers: Iterable[int]) -> None:
    """Parts that are there need not be asked for."""


@dataclass(frozen=True)
class Reading:
    """Parts by their places among some; `ask`, before the first `get`, says which come first."""

    get: Callable[[int], dict[str, Array]]
    ask: Callable[[Iterable[int]], None] = _nothing


@dataclass(eq=False)
class Blocks:
    """A field that lies in an array for each of some parts, each read when it is first asked for.

    Those that `stay` for several epochs are put side by side, where that is possible.

    Shapes: ends (parts,), the entries up to the end of each; get(i) (entries of part i, ...).
    """

    ends: NDArray[np.int64]
    get: Callable[[int], Array]
    ask: Callable[[Iterable[int]], None] = _nothing
    stay: bool = False
    _known: dict[int, Array] = field(default_factory=dict, init=False)
    _copied: int = field(default=0, init=False)

    @cached_property
    def begins(self) -> NDArray[np.int64]:
        """The entries before each part. Shapes: returns (parts,)."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])

    def at_hand(self, numbers: Iterable[int]) -> Mapping[int, Array]:
        """Read some parts, and without any the first; gives all that were read, by number."""
        if len(self._known) == len(self.ends):  # nobody need be asked for in every batch
            return self._known
        missing = [each for each in dict.fromkeys(numbers) or [0] if each not in self._known]
        self.ask(missing)
        for number in missing:
            self._known[number] = self.get(number)
        return self._known

    def whole(self, count: int) -> Array | None:
        """Give all parts as one array, of which so many entries will be copied, or None.

        Not before the second epoch: pages that are mapped anew are looked for anew, which takes
        longer than an epoch gains.

        Shapes: returns (entries of all parts, ...).
        """
        self._copied += count
        is_worth_it = self.stay and self._copied > self.ends[-1] + count
        is_all = len(self._known) == len(self.ends)  # a rank may not have asked for some part yet
        return self._side_by_side if is_worth_it and is_all else None

    @cached_property
    def _side_by_side(self) -> Array | None:
        found = side_by_side([self._known[each] for each in range(len(self.ends))])
        if found is not None:  # the first maps are not needed any more
            bounds = zip(self.begins.tolist(), self.ends.tolist(), strict=True)
            self._known.update(enumerate(found[begin:end] for begin, end in bounds))
        return found


def as_blocks(arrays: Sequence[Array]) -> Blocks:
    """Take arrays that are there already."""
    return Blocks(np.cumsum([len(each) for each in arrays]), arrays.__getitem__)


def gather(blocks: Blocks, at: NDArray[np.int64], empty: Empty = np.empty) -> Array:
    """Copy entries out of arrays that follow one another; `at` counts over all of them.

    `empty` makes the array that is returned, from its shape and dtype.

    Shapes: at (n,), best ascending; returns (n, ...).
    """
    if (whole := blocks.whole(len(at))) is not None:
        return take_rows(whole, at, 1, empty)
    is_ascending = bool((at[1:] >= at[:-1]).all())
    order = np.arange(len(at)) if is_ascending else np.argsort(at, kind="stable")
    touched, cuts = _cut(blocks, at[order])
    arrays = blocks.at_hand(touched)
    first = arrays[touched[0]]
    made = empty((len(at), *first.shape[1:]), first.dtype)
    for number, cut in zip(touched, cuts, strict=True):
        chosen = order[cut]
        within = at[chosen] - blocks.begins[number]
        if is_ascending:  # a slice of the batch, written once
            np.take(arrays[number], within, axis=0, out=made[cut], mode="clip")
        else:
            made[chosen] = arrays[number][within]
    return made


def take_rows(whole: Array, rows: NDArray[np.int64], size: int, empty: Empty = np.empty) -> Array:
    """Copy rows of so many entries each, one after the other.

    Shapes: whole (rows of all * size, ...), rows (n,); returns (n * size, ...).
    """
    rest = whole.shape[1:]
    made = empty((len(rows) * size, *rest), whole.dtype)
    out = made.reshape(len(rows), size, *rest)
    np.take(whole.reshape(-1, size, *rest), rows, axis=0, out=out, mode="clip")
    return made


def copy_runs(
    blocks: Blocks, runs: Sequence[Sequence[int]], count: int, empty: Empty = np.empty
) -> Array:
    """Copy runs of entries, `count` of them together, one after the other: a run is the number of
    a part, and where in it it begins and ends.

    Shapes: runs n of (3,); returns (count, ...).
    """
    arrays = blocks.at_hand(number for number, _, _ in runs)
    found = [arrays[number][start:stop] for number, start, stop in runs]
    found = found or [arrays[0][:0]]
    made = empty((count, *found[0].shape[1:]), found[0].dtype)
    return np.concatenate(found, out=made)


def _cut(blocks: Blocks, at: NDArray[np.int64]) -> tuple[list[int], list[slice]]:
    """Find which parts ascending entries lie in, and which of them in each; at least one part."""
    cuts = np.searchsorted(at, blocks.ends)
    begins = np.concatenate([[0], cuts[:-1]])
    touched = np.flatnonzero(cuts > begins).tolist() or [0]
    return touched, [slice(int(begins[each]), int(cuts[each])) for each in touched]
