import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.errors import CorruptPart
from pipeline.stream import prefetch


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
