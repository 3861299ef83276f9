import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compute import map_threads
from pipeline.errors import SampleError


@settings(max_examples=20)
@given(st.integers(0, 70), st.integers(1, 4), st.integers(1, 5))
def test_answers_come_in_order_whatever_the_workers(
    count: int, workers: int, together: int
) -> None:
    answers = map_threads(lambda number: 3 * number, range(count), workers, together=together)
    assert list(answers) == [3 * number for number in range(count)]


@pytest.mark.parametrize("workers", [1, 3])
def test_questions_reach_the_function_untouched(workers: int) -> None:
    questions: list[object] = [(len, "abc"), [1, 2], {"a": (sum, [1])}, None]
    answers = list(map_threads(lambda question: question, questions, workers))
    assert all(a is b for a, b in zip(answers, questions, strict=True))


def test_work_is_shared_by_threads() -> None:
    both = threading.Barrier(2, timeout=20)
    waited = list(map_threads(lambda _: both.wait(), range(2), 2))
    assert sorted(waited) == [0, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_questions_are_taken_only_as_they_are_needed(workers: int) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            yield taken
            taken += 1

    answers = map_threads(lambda number: number, endless(), workers)
    assert [next(answers) for _ in range(100)] == list(range(100))
    assert taken <= 100 + 8 * workers


@pytest.mark.parametrize("workers", [1, 3])
def test_first_failure_in_order_is_raised_as_it_is(workers: int) -> None:
    def check(name: str) -> str:
        if name == "late.png":
            time.sleep(0.05)
        if name.endswith(".png"):
            raise SampleError(f"{name}: unreadable")
        return name

    answers = map_threads(check, ["a", "b", "late.png", "early.png", "c"], workers)
    assert [next(answers), next(answers)] == ["a", "b"]
    with pytest.raises(SampleError, match=r"late\.png: unreadable") as caught:
        next(answers)
    assert not hasattr(caught.value, "__notes__")  # users read them


def test_a_fault_is_raised_with_its_item_counted_from_the_start() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(map_threads(lambda number: 1 // (90 - number), range(200), 2))
    assert caught.value.__notes__ == ["while working on item 90: 90"]
