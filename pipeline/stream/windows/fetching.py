"""Copies of parts on their way from an object store while a student learns from those before.

It asks caches to copy parts into their spool, a few at a time, behind the student's back, and to
prove them there. Whoever reads a part that was not asked for, or whose copy failed, copies it.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from pipeline.store import Cache
from pipeline.stream.order import Order

# Requests wait for the store, so several are under way.
THREADS = 8


@dataclass
class Fetcher:
    """What is fetched of one cache: these fields of the parts that are asked for.

    With `check` it proves the copies that are there already, once; new ones always are.
    """

    cache: Cache
    names: Sequence[str]
    check: bool
    pool: ThreadPoolExecutor | None = None
    asked: dict[int, Future[None]] = field(default_factory=dict)
    proved: set[int] = field(default_factory=set)
    followed: tuple[int, int] | None = None

    def follow(self, order: Order, epoch: int, window: int) -> None:
        """Let the parts of a window come, and those of the next one, maybe of the next epoch."""
        if self.followed == (epoch, window):
            return
        self.followed = (epoch, window)
        self.ask(order.windows(epoch)[window].tolist())
        self.ask(order.window_after(epoch, window).tolist())

    def ask(self, parts: Iterable[int]) -> None:
        """Begin to copy some parts, unless they would push out what is read now."""
        wanted = [part for part in parts if part not in self.asked]
        if self.cache.spool is None or self.cache.is_growing or not self._fits(len(wanted)):
            return
        if self.pool is None:
            self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
        for part in wanted:
            check = self.check and part not in self.proved
            fetch = partial(self.cache.fetch_part, part, self.names, check=check)
            self.asked[part] = self.pool.submit(fetch)

    def wait(self, parts: Iterable[int]) -> None:
        """Wait for those of some parts that were asked for; a failure is told by who reads them."""
        awaited = {part: self.asked.pop(part) for part in parts if part in self.asked}
        self.proved.update(part for part, each in awaited.items() if not each.exception())

    def _fits(self, count: int) -> bool:
        """Whether so many parts, and as many that are read meanwhile, fit into the spool."""
        assert self.cache.spool is not None
        plan = self.cache.plan
        part_bytes = self.cache.manifest["size_bytes"] / plan.part_count
        wanted = sum(each.entry_bytes for each in plan.fields if each.name in self.names)
        share = wanted / sum(each.entry_bytes for each in plan.fields)
        return bool(2 * count * part_bytes * share <= self.cache.spool.max_bytes)
