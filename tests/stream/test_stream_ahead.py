import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from pipeline.errors import CorruptPart
from pipeline.stream import prefetch
from pipeline.stream.ahead import (
    AT_ONCE_BYTES,
    LARGE_AT_ONCE_BYTES,
    MOST_AT_ONCE,
    count_at_once,
    in_bursts,
)


def count_to(stop: int, made: list[int]) -> Iterator[int]:
    for number in range(stop):
        made.append(number)
        yield number


def fail_at(stop: int, error: BaseException) -> Iterator[int]:
    yield from range(stop)
    raise error


@pytest.mark.parametrize("depth", [0, 1, 3, 100])
def test_order_is_kept(depth: int) -> None:
    assert list(prefetch(iter(range(50)), depth)) == list(range(50))


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("error", [CorruptPart("part 3: damaged"), KeyboardInterrupt()], ids=type)
def test_a_failure_comes_after_what_was_ready_and_as_itself(
    error: BaseException, depth: int
) -> None:
    seen: list[int] = []
    with pytest.raises(type(error)) as raised:
        seen.extend(prefetch(fail_at(3, error), depth))
    assert raised.value is error
    assert seen == [0, 1, 2]


def in_tens(source: Iterator[int]) -> Iterator[int]:
    return in_bursts(source, lambda item: 10)


@pytest.mark.parametrize("count", [0, 1, 2, 10, 11, 12, 50])
def test_bursts_keep_the_order(count: int) -> None:
    assert list(in_tens(iter(range(count)))) == list(range(count))


@pytest.mark.parametrize("stop", [0, 1, 3, 11, 15])
def test_a_failure_comes_after_what_was_ready_of_a_burst(stop: int) -> None:
    seen, error = list[int](), CorruptPart("part 3: damaged")
    with pytest.raises(CorruptPart) as raised:
        seen.extend(in_tens(fail_at(stop, error)))
    assert raised.value is error
    assert seen == list(range(stop))


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, MOST_AT_ONCE), (1, MOST_AT_ONCE), (AT_ONCE_BYTES // 3, 3), (AT_ONCE_BYTES, 1), (10**9, 0)],
)
def test_small_things_are_prepared_together(size: int, count: int) -> None:
    assert count_at_once(size) == count


def test_of_fields_that_are_copied_one_by_one_there_are_fewer() -> None:
    assert count_at_once(AT_ONCE_BYTES // 2, is_large=True) == 0
    assert count_at_once(LARGE_AT_ONCE_BYTES // 2, is_large=True) == 2


@pytest.mark.parametrize(("count", "burst"), [(0, 1), (1, 1), (3, 3), (64, 64)])
def test_a_burst_is_as_many_as_the_first_one_says(count: int, burst: int) -> None:
    made = list[int]()
    taken = in_bursts(count_to(100, made), lambda item: count)
    assert next(taken) == 0
    assert made == [0]  # the first one does not wait for others
    assert next(taken) == 1
    assert len(made) == 1 + burst


@pytest.mark.parametrize("count", [64, 1])
def test_what_was_handed_out_is_let_go(count: int) -> None:
    class Thing:
        """Something to look after."""

    def things() -> Iterator[Thing]:
        while True:
            yield Thing()

    taken = in_bursts(things(), lambda item: count)
    for _ in range(3):
        seen = weakref.ref(next(taken))
        next(taken)
        assert seen() is None


def test_no_more_is_prepared_than_asked_for() -> None:
    made: list[int] = []
    ahead = prefetch(count_to(100, made), 2)
    assert next(ahead) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert made == [0, 1, 2, 3]  # one handed out, two waiting, one in the thread's hands
    ahead.close()


def test_leaving_early_stops_the_thread_and_the_source() -> None:
    made: list[int] = []
    before = threading.active_count()
    ahead = prefetch(count_to(10**9, made), 2)
    assert next(ahead) == 0
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before
    assert len(made) < 10


def test_depth_0_uses_no_thread_and_prepares_nothing() -> None:
    made: list[int] = []
    before = threading.active_count()
    ahead = prefetch(count_to(5, made), 0)
    assert next(ahead) == 0
    assert threading.active_count() == before
    assert made == [0]
    assert list(ahead) == [1, 2, 3, 4]
