"""Fields whose entries are large, such as feature maps: left where they lie until a batch is made.

Copying a window of them would cost more than the batches made of it, so parts are mapped into
memory where their files are raw, and rows are copied once, straight into the batch.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.store import Cache

Array = NDArray[np.generic]
# Below it, entries are copied faster from one array than from one of several.
LARGE_BYTES = 1024
# Of maps that stay open for the next epoch, for making them anew costs as much as reading them.
KEPT_BYTES = 2**30


def split_large(cache: Cache, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell the fields apart whose entries are large; gives the others, and these."""
    large = {each.name for each in cache.plan.fields if each.entry_bytes >= LARGE_BYTES}
    return [name for name in names if name not in large], [name for name in names if name in large]


@dataclass(frozen=True)
class LargeFields:
    """The large fields of a cache, part by part; those read last stay mapped, 1 GiB of them."""

    names: Sequence[str]
    parts: OrderedDict[int, dict[str, Array]] = field(default_factory=OrderedDict)

    def read(self, cache: Cache, part: int, *, check: bool) -> dict[str, Array]:
        """Give the arrays of a part; read-only maps of its files where those are raw.

        Raises: CorruptPart if a file is damaged.
        """
        if part in self.parts:
            self.parts.move_to_end(part)
            return self.parts[part]
        arrays = cache.read_part(part, self.names, check=check, mapped=True)
        # Arrays of their own are the window's to hold; only maps cost no memory.
        if not any(array.flags.writeable for array in arrays.values()):
            self.parts[part] = arrays
            self._let_go()
        return arrays

    def _let_go(self) -> None:
        sizes = [sum(each.nbytes for each in arrays.values()) for arrays in self.parts.values()]
        while len(sizes) > 1 and sum(sizes) > KEPT_BYTES:
            self.parts.popitem(last=False)
            sizes.pop(0)


def gather(blocks: Sequence[Array], at: NDArray[np.int64]) -> Array:
    """Copy entries out of arrays that follow one another; `at` counts over all of them.

    Shapes: blocks (n_i, ...); at (n,), best ascending; returns (n, ...).
    """
    ends = np.cumsum([len(block) for block in blocks])
    made = np.empty((len(at), *blocks[0].shape[1:]), blocks[0].dtype)
    is_ascending = bool((at[1:] >= at[:-1]).all())
    order = np.arange(len(at)) if is_ascending else np.argsort(at, kind="stable")
    cuts = np.searchsorted(at[order], ends)
    first, start = 0, 0
    for block, end, last in zip(blocks, ends.tolist(), cuts.tolist(), strict=True):
        if last > first:
            chosen = order[first:last]
            within = at[chosen] - start
            if is_ascending:  # a slice of the batch, written once
                np.take(block, within, axis=0, out=made[first:last], mode="clip")
            else:
                made[chosen] = block[within]
        first, start = last, end
    return made
