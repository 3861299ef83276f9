"""The window at hand: read when a batch of it is asked for, and let go when one of another is.

A small cache is one window, read once and for all. Parts are checked when they are read first; of
an object store they come into its spool while a student learns from those before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.store import Cache
from pipeline.stream.order import Order
from pipeline.stream.stored import Whole
from pipeline.stream.windows.expected import Expected
from pipeline.stream.windows.fetching import Fetcher
from pipeline.stream.windows.large import LargeFields
from pipeline.stream.windows.window import Array, Finder, Window, cache_window, sample_window

# Those of a window, in order.
Parts = tuple[int, ...]
# Gives a window, of these ranges of rows, further fields.
Widen = Callable[[Window, Sequence[range]], Window]
# Gives the targets of a window, of its fields over positions, where those are widened at once.
FindWhole = Callable[[Mapping[str, Array]], Whole | None]


@dataclass(frozen=True)
class Loaded:
    """A window, and its targets where those are widened at once."""

    parts: Parts
    window: Window
    whole: Whole | None


@dataclass
class Loader:
    """What is read of a cache, or of samples alone, part by part; `unread` are not checked yet."""

    cache: Cache | None
    order: Order
    finder: Finder
    names: Sequence[str]
    large: LargeFields
    unread: set[int]
    fetcher: Fetcher | None
    widen: Sequence[Widen]
    find_whole: FindWhole | None
    held: Loaded | None = None
    followed: tuple[int, int] | None = None
    expected: Expected | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "held": None}  # another process reads its own

    def follow(self, epoch: int, window: int) -> None:
        """Let the parts of a window of an epoch come, and those of the next.

        A disk is told of those of the next, part by part as batches of this one are asked for.
        """
        if self.fetcher:
            self.fetcher.follow(self.order, epoch, window)
        elif self.expected and self.followed == (epoch, window):
            self.expected.tell()
        elif self.cache:
            self.followed, here = (epoch, window), {*self.order.windows(epoch)[window].tolist()}
            later = self.order.window_after(epoch, window).tolist()
            parts = [part for part in later if part not in here and part not in self.large.parts]
            self.expected = Expected(self.cache, (*self.names, *self.large.names), iter(parts))

    def load(self, parts: Parts) -> Loaded:
        """Read a window, or give the one in memory.

        Raises: CorruptPart if a file is damaged; SampleError if the dataset lacks a sample.
        """
        if self.held is None or self.held.parts != parts:
            self.held = None  # let go of the old one before the new one is read
            window = self._read(parts)
            whole = self.find_whole(window.over_positions) if self.find_whole else None
            self.held = Loaded(parts, window, whole)
        return self.held

    def _read(self, parts: Parts) -> Window:
        ranges = [self.order.part_rows(part) for part in parts]
        window = sample_window(ranges) if self.cache is None else self._read_cache(parts)
        for widen in self.widen:
            window = widen(window, ranges)
        return window

    def _read_cache(self, parts: Parts) -> Window:
        assert self.cache is not None
        if self.fetcher:
            self.fetcher.wait(parts)
            self.unread.difference_update(self.fetcher.proved)
            self.large.unread.difference_update(self.fetcher.proved)
        window = cache_window(
            self.cache,
            parts,
            finder=self.finder,
            names=self.names,
            large=self.large if self.large.names else None,
            check=not self.unread.isdisjoint(parts),
        )
        self.unread.difference_update(parts)
        return window
