"""Finds samples by id again, and proves that they are still what they were.

The ids and digests come from whoever kept them; this module knows no cache. Data in the order it
had needs no index; reordered data costs 16 bytes a sample.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError, see
from pipeline.samples.batch import Samples, content_digests, ids_at, name_some
from pipeline.samples.scan import block_size, hash_ids, map_in_order

INDEX_STEP = 65_536


class IdIndex:
    """Where each id is in a dataset: sorted 64-bit hashes and the indices they belong to.

    Equal hashes are told apart by the ids themselves, so an answer is never a guess.
    """

    def __init__(
        self,
        samples: Samples,
        hash_ids: Callable[[Sequence[str]], NDArray[np.uint64]] = hash_ids,
    ) -> None:
        self._samples = samples
        self._hash_ids = hash_ids
        hashes = np.empty(len(samples), dtype=np.uint64)
        for start in range(0, len(samples), INDEX_STEP):
            stop = min(start + INDEX_STEP, len(samples))
            hashes[start:stop] = hash_ids(samples.ids(start, stop))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Find the indices of ids; -1 means absent.

        Shapes: returns (B,).
        """
        wanted = self._hash_ids(ids)
        places = np.searchsorted(self._hashes, wanted, side="left")
        found = np.full(len(ids), -1, dtype=np.int64)
        spelled = np.array(ids, dtype=object)
        pending = np.arange(len(ids))
        while len(pending := self._alike(pending, places, wanted)):
            candidates = self._order[places[pending]]
            names = np.array(ids_at(self._samples, candidates), dtype=object)
            same = names == spelled[pending]
            found[pending[same]] = candidates[same]
            pending = pending[~same]
            places[pending] += 1
        return found

    def _alike(
        self, pending: NDArray[np.int64], places: NDArray[np.int64], wanted: NDArray[np.uint64]
    ) -> NDArray[np.int64]:
        """Keep those of `pending` whose place in the sorted hashes holds the hash they want."""
        inside = pending[places[pending] < len(self._hashes)]
        alike: NDArray[np.int64] = inside[self._hashes[places[inside]] == wanted[inside]]
        return alike


@dataclass
class Locator:
    """Finds samples by running offset while the order holds, else by an index built once."""

    samples: Samples
    index: IdIndex | None = field(default=None, init=False)

    def find(self, ids: Sequence[str], hint: int) -> NDArray[np.int64]:
        """Find the indices of ids, trying from `hint` on first, and on from the first sample.

        Shapes: returns (B,), -1 where an id is absent.
        """
        count = len(self.samples)
        if 0 <= hint < count and self._names(hint, len(ids)) == list(ids):
            run: NDArray[np.int64] = (hint + np.arange(len(ids))) % count
            return run
        if self.index is None:
            self.index = IdIndex(self.samples)
        return self.index.find(ids)

    def _names(self, start: int, count: int) -> list[str]:
        """Name so many samples; after the last one comes the first, in another view."""
        names: list[str] = []
        while len(names) < count:
            stop = min(start + count - len(names), len(self.samples))
            names += self.samples.ids(start, stop)
            start = 0
        return names

    def locate(self, ids: Sequence[str], hint: int) -> NDArray[np.int64]:
        """Find the indices of ids, all of which must be there.

        Shapes: returns (B,).
        Raises: SampleError naming those that are not.
        """
        indices = self.find(ids, hint)
        missing = list(dict.fromkeys(ids[place] for place in np.flatnonzero(indices < 0).tolist()))
        if missing:
            named = name_some(missing, len(missing))
            raise SampleError(
                f"{self.samples.name}: {len(missing):,} of the samples asked for are not in it: "
                f"{named}; cache it again or restore the data"
            )
        return indices


@dataclass
class _Differences:
    """What was found to differ: a count of each kind, and the first five ids."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, sample_id: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        examples = self.names.setdefault(kind, [])
        if len(examples) < 5:
            examples.append(sample_id)


def check_samples(
    samples: Samples,
    expected: Iterator[tuple[list[str], NDArray[np.uint8]]],
    *,
    where: str,
    threads: int = 2,
    advance: Callable[[int], None] | None = None,
    locator: Locator | None = None,
    found: Callable[[NDArray[np.int64]], None] | None = None,
) -> None:
    """Prove that every expected sample is in the dataset, unchanged; order does not matter.

    `where` names whoever expects it, such as a cache's path; `advance` is told of rows, `found` of
    the indices (B,) of what was just expected. A `locator` of somebody else's saves an index.

    Shapes: expected yields B ids and digests (B, 16).
    Raises: SampleError that counts the missing and the changed samples and names the first five.
    """
    locator = locator or Locator(samples)
    differences = _Differences()
    next_index = 0
    for ids, digests in expected:
        if not ids:
            continue
        indices = locator.find(ids, next_index)
        _compare(samples, ids, digests, indices, threads=threads, differences=differences)
        next_index = int(indices[-1]) + 1
        if found is not None:
            found(indices)
        if advance is not None:
            advance(len(ids))
    if differences.counts:
        lines = [
            f"{kind}: {count:,}: {name_some(differences.names[kind], count)}"
            for kind, count in differences.counts.items()
        ]
        head = f"{where}: the samples of {samples.name} are not those it was made from"
        error = SampleError("\n  ".join([head, *lines, "Cache it again or restore the data."]))
        raise see(error, "faq.md#can-i-add-samples-to-a-cache-or-train-on-a-part-of-it")


def _compare(
    samples: Samples,
    ids: list[str],
    digests: NDArray[np.uint8],
    indices: NDArray[np.int64],
    *,
    threads: int,
    differences: _Differences,
) -> None:
    """Compare one part with the samples found for it, each read once, in their order."""
    wanted = {index: place for place, index in enumerate(indices.tolist()) if index >= 0}
    present = np.array(sorted(wanted), dtype=np.int64)
    for sample_id in dict.fromkeys(ids[place] for place in np.flatnonzero(indices < 0).tolist()):
        differences.note("missing", sample_id)
    step = block_size(samples, present)
    blocks = [present[start : start + step] for start in range(0, len(present), step)]
    for block, found in zip(
        blocks, map_in_order(partial(_digests, samples), blocks, threads), strict=True
    ):
        for index, digest in zip(block.tolist(), found, strict=True):
            place = wanted[index]
            if digest is None:
                differences.note("unreadable", ids[place])
            elif digest != digests[place].tobytes():
                differences.note("changed", ids[place])


def _digests(samples: Samples, block: NDArray[np.int64]) -> list[bytes | None]:
    """Digest samples; None stands for one that cannot be read."""
    try:
        return [digest.tobytes() for digest in content_digests(samples.read(block).inputs)]
    except SampleError:
        if len(block) == 1:
            return [None]
    return [digest for index in block for digest in _digests(samples, index[None])]
