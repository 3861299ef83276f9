"""Copies of parts on their way from an object store while a student learns from those before.

It asks caches to copy parts into their spool, a few at a time, behind the student's back. Whoever
reads a part that has not arrived copies it too, so nothing here can be wrong, only late.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.store import Cache
from pipeline.stream.order import Order

# Requests wait for the store, so several are under way.
THREADS = 8


@dataclass
class Fetcher:
    """What is fetched of one cache: these fields of the parts that are asked for.

    A second look at a part costs nothing while its copy is there.
    """

    cache: Cache
    names: Sequence[str]
    pool: ThreadPoolExecutor | None = None
    asked: dict[int, Future[None]] = field(default_factory=dict)
    followed: tuple[int, int] | None = None

    def follow(self, order: Order, epoch: int, window: int) -> None:
        """Let the parts of a window come, and those of the next one, maybe of the next epoch."""
        if self.followed == (epoch, window):
            return
        self.followed = (epoch, window)
        windows = order.windows(epoch)
        self.ask(windows[window].tolist())
        later = windows[window + 1] if window + 1 < len(windows) else order.windows(epoch + 1)[0]
        self.ask(later.tolist())

    def ask(self, parts: Iterable[int]) -> None:
        """Begin to copy some parts, unless they would push out what is read now.

        A failure is told by whoever reads the part.
        """
        self.asked = {part: each for part, each in self.asked.items() if not each.done()}
        wanted = [part for part in parts if part not in self.asked]
        if self.cache.spool is None or self.cache.is_growing or not self._fits(len(wanted)):
            return
        if self.pool is None:
            self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
        for part in wanted:
            self.asked[part] = self.pool.submit(self.cache.fetch_part, part, self.names)

    def _fits(self, count: int) -> bool:
        """Whether so many parts, and as many that are read meanwhile, fit into the spool."""
        assert self.cache.spool is not None
        part_bytes = self.cache.manifest["size_bytes"] / self.cache.plan.part_count
        return bool(2 * count * part_bytes <= self.cache.spool.max_bytes)
