"""Many small tasks on workers that come and go, a few of them in flight, each tried several times.

Dask decides which worker takes which task. This module does not know what a task does; it should
be harmless to do twice, for a worker may die after its work and before its answer.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.compute.workers import Workers
from pipeline.errors import PipelineError

Answer = TypeVar("Answer")

TRIES = 3
# One a worker is busy with and some that wait for it there, so that it never waits for the client.
AHEAD = 4
COUNT_EVERY_S = 2.0


@dataclass(frozen=True)
class Done(Generic[Answer]):
    """A question that is through: its answer, or none and the error of its last try."""

    question: int
    answer: list[Answer]
    error: BaseException | None = None


def ask_workers(
    workers: Workers, function: Callable[[int], Answer], questions: Iterable[int]
) -> Iterator[Done[Answer]]:
    """Yield each question with its answer, in the order in which they come.

    `function` and answers travel between processes. A question that fails, or whose worker dies, is
    asked again, up to three times. In flight are a few a worker, however many questions there are.

    Raises: PipelineError if the scheduler goes away.
    """
    from distributed import KilledWorker, as_completed

    waiting, again = iter(questions), deque[tuple[int, int]]()
    asked: dict[Any, tuple[int, int]] = {}
    ready = as_completed(loop=workers.client.loop, with_results=True, raise_errors=False)
    count = _counter(workers)

    def fill() -> None:
        while len(asked) < AHEAD * count():
            question, tried = again.popleft() if again else (next(waiting, None), 0)
            if question is None:
                return
            future = workers.client.submit(function, question, pure=False)
            asked[future] = question, tried + 1
            ready.add(future)

    fill()
    # Many at a time: each look at what is ready costs as much as a small task.
    while asked:
        for future, result in ready.next_batch():
            question, tried = asked.pop(future)
            if future.status == "finished":
                yield Done(question, [result])
            elif future.status != "error":
                raise PipelineError(
                    f"compute: {workers.where} went away. Parts that are made are kept; run the "
                    "same command again."
                )
            # Dask has tried by itself for those whose workers died.
            elif tried < TRIES and not isinstance(result[1], KilledWorker):
                again.append((question, tried))
            else:
                yield Done(question, [], result[1])
        fill()


def _counter(workers: Workers) -> Callable[[], int]:
    """Count the workers, now and then; as many as are expected at the least."""
    counted, counted_s = workers.expected, float("-inf")

    def count() -> int:
        nonlocal counted, counted_s
        if time.monotonic() - counted_s > COUNT_EVERY_S:
            counted, counted_s = len(workers.client.nthreads()), time.monotonic()
        return max(counted, workers.expected, 1)

    return count
