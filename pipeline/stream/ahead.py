"""Prepare the next few things before they are asked for: in a background thread, or some at once.

A failure reaches the one who asks after all that was ready.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
# Prepared at once. A student's step drives code and data of the stream out of a core's cache, so
# that a batch of 128 small images takes 0.38 ms after each step, 0.09 with 15 others, and 0.06 with
# 63.
MOST_AT_ONCE = 64
AT_ONCE_BYTES = 2**23
# Of fields that are copied one by one into memory that is used again: more of it than a core's
# cache holds takes a fifth longer to fill.
LARGE_AT_ONCE_BYTES = 2**21


@dataclass(frozen=True)
class Ready(Generic[Item]):
    """Something that was prepared."""

    item: Item


@dataclass(frozen=True)
class Failed:
    """Why nothing more comes."""

    error: BaseException


# What a thread hands over; None at the end.
Coming = Ready[Item] | Failed | None


def prefetch(source: Iterator[Item], depth: int) -> Generator[Item]:
    """Iterate over `source` in a thread that runs at most `depth` items ahead.

    Leaving the loop early stops the thread. Depth 0 uses no thread.
    """
    if depth == 0:
        yield from source
        return
    ready = queue.Queue[Coming[Item]](maxsize=depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(source, ready, stopped), daemon=True)
    thread.start()
    try:
        while True:
            came = ready.get()
            if came is None:
                return
            if isinstance(came, Failed):
                raise came.error
            yield came.item
    finally:
        stopped.set()
        thread.join()


def in_bursts(source: Iterator[Item], count_for: Callable[[Item], int]) -> Generator[Item]:
    """Iterate over `source` without a thread, several small items at a time.

    The first item comes alone, and `count_for` says how many like it come together.
    """
    for first in islice(source, 1):
        count = count_for(first)
        yield first
        del first  # or it would be held as long as there are others
        yield from source if count < 2 else _in_bursts(source, count)


def count_at_once(size_bytes: int, *, is_large: bool = False) -> int:
    """Say how many things of a size are prepared together; 0 if one is too large for others."""
    limit = LARGE_AT_ONCE_BYTES if is_large else AT_ONCE_BYTES
    return min(MOST_AT_ONCE, limit // max(1, size_bytes))


def _in_bursts(source: Iterator[Item], count: int) -> Generator[Item]:
    failure: Exception | None = None
    while failure is None:
        ready = deque[Item]()
        try:
            for item in islice(source, count):
                ready.append(item)
        except Exception as error:  # raised when its turn has come
            failure = error
        if not ready and failure is None:
            return
        while ready:
            yield ready.popleft()
    raise failure


def _fill(
    source: Iterator[Item],
    ready: queue.Queue[Coming[Item]],
    stopped: threading.Event,
) -> None:
    try:
        for item in source:
            if not _put(ready, Ready(item), stopped):
                return
        _put(ready, None, stopped)
    except BaseException as failure:  # handed over whole, also an interrupt; the reader raises it
        _put(ready, Failed(failure), stopped)


def _put(ready: queue.Queue[Coming[Item]], value: Coming[Item], stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            ready.put(value, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
