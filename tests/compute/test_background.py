import threading
import time

import pytest

from pipeline.compute import Background
from pipeline.errors import CacheError


def fail() -> None:
    raise CacheError("part 3: disk full")


def test_calls_run_in_order_in_one_other_thread() -> None:
    seen: list[tuple[int, str]] = []

    def note(number: int) -> None:
        time.sleep(0.001 * (5 - number))
        seen.append((number, threading.current_thread().name))

    with Background() as background:
        for number in range(5):
            background.submit(lambda number=number: note(number))  # type: ignore[misc]
    assert [number for number, _ in seen] == [0, 1, 2, 3, 4]
    names = {name for _, name in seen}
    assert len(names) == 1
    assert threading.current_thread().name not in names


def test_a_second_call_waits_for_the_first() -> None:
    may_end, ended = threading.Event(), threading.Event()

    def first() -> None:
        may_end.wait(5)
        ended.set()

    with Background() as background:
        background.submit(first)
        assert not ended.is_set()
        may_end.set()
        background.submit(lambda: None)
        assert ended.is_set()


def test_a_failure_is_raised_by_the_next_call_which_does_not_run() -> None:
    seen: list[str] = []
    with Background() as background:
        background.submit(lambda: seen.append("before"))
        background.submit(fail)
        with pytest.raises(CacheError, match="part 3: disk full"):
            background.submit(lambda: seen.append("after"))
    assert seen == ["before"]


def test_a_failure_of_the_last_call_is_raised_at_the_end() -> None:
    background = Background()
    with pytest.raises(CacheError, match="part 3: disk full"), background:
        background.submit(fail)


def test_a_failure_is_raised_once() -> None:
    with Background() as background:
        background.submit(fail)
        with pytest.raises(CacheError):
            background.wait()
        background.wait()


def test_leaving_with_an_error_waits_for_the_call_in_hand_and_keeps_the_error() -> None:
    ended: list[bool] = []

    def slow_failure() -> None:
        time.sleep(0.02)
        ended.append(True)
        fail()

    def leave(background: Background) -> None:
        with background:
            background.submit(slow_failure)
            raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        leave(Background())
    assert ended == [True]
