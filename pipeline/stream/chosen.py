"""Rows with a pseudo-label: which come in an epoch, how often, and what they are called.

It reads a table of pseudo-labels once; from then on 12 bytes a row lie in a temporary file. It
knows neither batches nor losses.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError, TargetError
from pipeline.labelling.output.table import PseudoLabelTable
from pipeline.samples import Locator, Samples, check_samples
from pipeline.samples.batch import DIGEST_BYTES, name_some
from pipeline.store import Cache
from pipeline.stream.windows.window import Window
from pipeline.temporary import TemporaryArray

ROW = np.dtype([("label", "<i4"), ("weight", "<f4"), ("copies", "<i4")])
INDEX = np.dtype("<i8")
LABEL, WEIGHT = "pseudo_label", "pseudo_weight"
# The statistic that weighs soft targets by the weights of a table.
OF_TABLE = "pseudo_label"
# Ids and digests of some rows. Shapes: (n,) and (n, 16).
Block = tuple[list[str], NDArray[np.uint8]]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Chosen:
    """The rows of a table, as a stream goes through them: part by part.

    `indices` says where each row's sample is, where no cache does. Without `only_chosen` every row
    comes once, and those that were not chosen have no pseudo-label.

    Shapes: counts (parts,), the rows of each part that an epoch has.
    """

    rows: TemporaryArray
    counts: Rows
    only_chosen: bool
    indices: TemporaryArray | None

    def places(self, rows: range) -> Rows:
        """Say which of some rows an epoch has, in order, each as often as it comes."""
        found = np.arange(len(rows))
        return np.repeat(found, self._read(rows)["copies"]) if self.only_chosen else found

    def widen(self, window: Window, ranges: Sequence[range]) -> Window:
        """Give a window of these rows their labels, -1 for none, and their weights."""
        found = np.concatenate([self._read(rows) for rows in ranges])
        labels = np.where(found["copies"] > 0, found["label"], -1)
        told = {LABEL: labels.astype(np.int64), WEIGHT: found["weight"].copy()}
        window = replace(window, over_rows={**window.over_rows, **told})
        if self.indices is None:
            return window
        indices = [self.indices.read(rows.start, rows.stop) for rows in ranges]
        return replace(window, indices=np.concatenate(indices))

    def _read(self, rows: range) -> NDArray[np.void]:
        return self.rows.read(rows.start, rows.stop)


def open_chosen(
    table: PseudoLabelTable,
    samples: Samples,
    cache: Cache | None,
    *,
    rows_per_part: int,
    only_chosen: bool = True,
    advance: Callable[[int], None] | None = None,
) -> Chosen:
    """Read a table of the rows of a cache, or without one of the samples of a dataset.

    Raises: SampleError if the table is of other rows than the cache, or names samples that the
        dataset lacks or holds changed; TargetError if nothing was chosen; CorruptTable if the table
        cannot be read.
    """
    rows, counts = TemporaryArray(ROW), np.zeros(-(-table.rows // rows_per_part), np.int64)
    for columns in table.learned():
        entries = np.empty(len(columns["label"]), ROW)
        for name in ROW.names or ():
            entries[name] = columns[name]
        parts = (rows.count + np.arange(len(entries))) // rows_per_part
        ones = columns["copies"] if only_chosen else np.ones(len(entries))
        counts += np.bincount(parts, ones, minlength=len(counts)).astype(np.int64)
        rows.append(entries)
    if not counts.sum():
        raise TargetError(
            f"{table.path}: no row has a pseudo-label, so there is nothing to train on. Make them "
            "again with a rule that keeps some."
        )
    if cache is not None:
        check_table(table, cache)
        return Chosen(rows, counts, only_chosen, None)
    check_samples(samples, table.identities(), where=str(table.path), advance=advance)
    return Chosen(rows, counts, only_chosen, _locate(table, samples))


def _locate(table: PseudoLabelTable, samples: Samples) -> TemporaryArray:
    locator, indices, hint = Locator(samples), TemporaryArray(INDEX), 0
    for ids, _ in table.identities():
        found = locator.locate(ids, hint)
        indices.append(found)
        hint = int(found[-1]) + 1
    return indices


def check_table(table: PseudoLabelTable, cache: Cache) -> None:
    """Prove that a table is of the rows of a cache, in their order.

    Raises: SampleError that counts the rows that differ and names the first five.
    """
    different = list[str]()
    sizes = [len(cache.plan.part_range(part)) for part in range(cache.plan.part_count)]
    count = abs(table.rows - cache.plan.rows)
    for part, (ids, digests) in enumerate(_cut(table.identities(), sizes)):
        found = cache.read_samples(part)
        if ids == found.ids and np.array_equal(digests, found.digests):
            continue
        pairs = zip(ids, found.ids, digests, found.digests, strict=False)
        names = [one for one, two, *both in pairs if one != two or bytes(both[0]) != bytes(both[1])]
        count, different = count + len(names), [*different, *names][:5]
    if count:
        raise SampleError(
            f"{table.path}: its rows are not those of {cache.path}: {count:,} differ"
            f"{': ' + name_some(different, count) if different else ''}. Give the cache that the "
            "pseudo-labels were made from, or one of the same data."
        )


def _cut(blocks: Iterator[Block], sizes: Sequence[int]) -> Iterator[Block]:
    """Cut ids and digests, which come in blocks of any size, into pieces of these sizes."""
    held_ids, held = list[str](), np.empty((0, DIGEST_BYTES), np.uint8)
    for size in sizes:
        while len(held_ids) < size and (block := next(blocks, None)):
            held_ids, held = held_ids + block[0], np.concatenate([held, block[1]])
        yield held_ids[:size], held[:size]
        held_ids, held = held_ids[size:], held[size:]
