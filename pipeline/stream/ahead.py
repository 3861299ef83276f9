"""Prepare the next few things in a background thread; a failure there reaches the one who asks."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(source: Iterator[Item], depth: int) -> Generator[Item]:
    """Iterate over `source` in a thread that runs at most `depth` items ahead.

    Leaving the loop early stops the thread. Depth 0 uses no thread.
    """
    if depth == 0:
        yield from source
        return
    ready: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(source, ready, stopped), daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = ready.get()
            if is_item:
                yield value  # type: ignore[misc]  # the flag says which of the three it is
            elif value is None:
                return
            else:
                raise value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


def _fill(
    source: Iterator[Item],
    ready: queue.Queue[tuple[bool, Item | BaseException | None]],
    stopped: threading.Event,
) -> None:
    try:
        for item in source:
            if not _put(ready, (True, item), stopped):
                return
        _put(ready, (False, None), stopped)
    except (
        BaseException
    ) as failure:  # handed over whole, also an interrupt, and raised by the reader
        _put(ready, (False, failure), stopped)


def _put(
    ready: queue.Queue[tuple[bool, Item | BaseException | None]],
    value: tuple[bool, Item | BaseException | None],
    stopped: threading.Event,
) -> bool:
    while not stopped.is_set():
        try:
            ready.put(value, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
