"""Many small tasks on workers that come and go, a few of them in flight, each tried several times.

Dask decides which worker takes which task. This module does not know what a task does; it should
be harmless to do twice, for a worker may die after its work and before its answer.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from pipeline.compute.workers import Workers
from pipeline.errors import PipelineError

Answer = TypeVar("Answer")

TRIES = 3
# One a worker is busy with and some that wait for it there, so that it never waits for the client.
AHEAD = 8
COUNT_EVERY_S = 2.0
# Questions a worker between two waits of those that want answers in order.
WAVE = 4 * AHEAD


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

    `function` and answers travel between processes. A question that fails is asked again, up to
    three times. Those that were with workers that died are asked once more by themselves, for one
    that kills its worker takes along what waits there. In flight are a few a worker, however many
    questions there are.

    Raises: PipelineError if the scheduler goes away.
    """
    from distributed import KilledWorker

    alone = list[int]()
    try:
        for done in _ask(workers, function, iter(questions)):
            if isinstance(done.error, KilledWorker):
                alone.append(done.question)
            else:
                yield done
        for question in alone:
            yield from _ask(workers, function, iter([question]))
    except OSError as error:  # of a connection: what `function` raises is a value here
        raise PipelineError(
            f"compute: {workers.where} went away ({error}). Parts that are made are kept; run the "
            "same command again."
        ) from error


def map_workers(
    workers: Workers, function: Callable[[int], Answer], questions: Iterable[int]
) -> Iterator[Answer]:
    """Yield function(question) of each question, in their order, as `map_threads` does.

    Work goes in waves, so that answers do not pile up.

    Raises: the error of the first question that failed three times; PipelineError if the scheduler
        goes away.
    """
    remaining = iter(questions)
    while wave := list(islice(remaining, WAVE * max(workers.expected, 1))):
        answers = dict[int, Answer]()
        for done in ask_workers(workers, function, wave):
            if done.error is not None:
                raise done.error
            answers[done.question] = done.answer[0]
        yield from (answers[question] for question in wave)


def _ask(
    workers: Workers, function: Callable[[int], Answer], waiting: Iterator[int]
) -> Iterator[Done[Answer]]:
    from distributed import KilledWorker, as_completed

    asked, again, failures = dict[Any, int](), deque[int](), Counter[int]()
    ready, count = as_completed(loop=workers.client.loop), _counter(workers)
    while True:
        new = _take(again, waiting, AHEAD * count() - len(asked))
        futures = workers.client.map(function, new, pure=False) if new else []
        asked.update(zip(futures, new, strict=True))
        ready.update(futures)
        if not asked:
            return
        # Many at a time: to hear of one costs as much as a small task.
        for future, answer, error in _hear(workers, ready.next_batch()):
            question = asked.pop(future)
            failures[question] += error is not None
            # Dask has tried several times itself for those whose workers died.
            is_last = failures[question] == TRIES or isinstance(error, KilledWorker)
            if error is None or is_last:
                del failures[question]
                yield Done(question, answer, error)
            else:
                again.append(question)


def _take(again: deque[int], waiting: Iterator[int], room: int) -> list[int]:
    """Take so many questions, at most; first those that failed before."""
    taken = [again.popleft() for _ in range(min(room, len(again)))]
    return [*taken, *islice(waiting, max(0, room - len(taken)))]


def _hear(
    workers: Workers, futures: Sequence[Any]
) -> Iterator[tuple[Any, list[Any], BaseException | None]]:
    """Give of each future an answer or an error.

    Raises: OSError if the scheduler went away.
    """
    # Before anything is asked of it, which would wait for half a minute.
    if any(future.status == "cancelled" for future in futures):
        raise ConnectionError("the connection to its scheduler was lost")
    finished = [future for future in futures if future.status == "finished"]
    answers = dict(zip(finished, workers.client.gather(finished), strict=True))
    for future in futures:
        if future in answers:
            yield future, [answers[future]], None
        else:
            yield future, [], future.exception()


def _counter(workers: Workers) -> Callable[[], int]:
    """Count the workers, now and then; as many as are expected at the least."""
    counted, counted_s = workers.expected, float("-inf")

    def count() -> int:
        nonlocal counted, counted_s
        if time.monotonic() - counted_s > COUNT_EVERY_S:
            counted, counted_s = len(workers.client.nthreads()), time.monotonic()
        return max(counted, workers.expected, 1)

    return count
