from math import comb

import numpy as np
import pytest

from pipeline.labelling.bounds import Promise, fewest, find_widest, interval, lower_bound


def at_least(hits: int, count: int, share: float) -> float:
    """Sum the probability of so many hits or more."""
    return sum(
        comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(hits, count + 1)
    )


@pytest.mark.parametrize(("hits", "count"), [(1, 1), (3, 20), (19, 20), (59, 59), (240, 250)])
def test_a_lower_bound_is_where_so_many_hits_are_as_unlikely_as_the_risk(
    hits: int, count: int
) -> None:
    bound = lower_bound(hits, count, 0.05)
    assert at_least(hits, count, bound) == pytest.approx(0.05, rel=1e-6)


def test_an_interval_shares_the_risk_between_its_ends() -> None:
    found = interval(3, 20)
    assert at_least(3, 20, found.low) == pytest.approx(0.025, rel=1e-6)
    assert 1 - at_least(4, 20, found.high) == pytest.approx(0.025, rel=1e-6)


@pytest.mark.parametrize(
    ("hits", "count", "ends"), [(0, 5, (0.0, 0.5218)), (5, 5, (0.4782, 1.0)), (0, 0, (0.0, 1.0))]
)
def test_an_interval_of_none_or_all_ends_at_0_or_1(
    hits: int, count: int, ends: tuple[float, float]
) -> None:
    found = interval(hits, count)
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-4)


@pytest.mark.parametrize(("precision", "count"), [(0.95, 59), (0.9, 29), (0.5, 5)])
def test_the_fewest_that_can_keep_a_promise_are_all_right(precision: float, count: int) -> None:
    assert fewest(precision, 0.05) == count
    assert lower_bound(count, count, 0.05) >= precision
    assert lower_bound(count - 1, count - 1, 0.05) < precision


def test_the_widest_set_ends_where_errors_begin() -> None:
    doubts = np.arange(200, dtype=np.float32)
    right = doubts < 150
    found = find_widest(doubts, right, precision=0.9, risk=0.05)
    assert found.doubt is not None
    assert 140 <= found.doubt < 165
    assert lower_bound(found.right, found.count, 0.05) >= 0.9
    assert found.count == found.doubt + 1


def test_an_error_among_the_surest_is_not_the_end_where_many_are_labelled() -> None:
    doubts = np.arange(1000, dtype=np.float32)
    right = np.ones(1000, bool)
    right[[3, 5, 8, 11]] = False
    found = find_widest(doubts, right, precision=0.85, risk=0.025)
    assert found.count == 1000
    few = find_widest(doubts[:80], right[:80], precision=0.85, risk=0.025)
    assert few == Promise(None)


def test_equal_doubts_are_never_parted() -> None:
    doubts = np.repeat(np.arange(4, dtype=np.float32), 50)
    right = np.arange(200) % 50 > 0
    found = find_widest(doubts, right, precision=0.9, risk=0.05)
    assert found.count in (50, 100, 150, 200)


@pytest.mark.parametrize(
    "right", [np.ones(58, bool), np.zeros(500, bool)], ids=["too few", "all wrong"]
)
def test_without_a_set_that_is_sure_enough_there_is_no_promise(right: np.ndarray) -> None:
    doubts = np.arange(len(right), dtype=np.float32)
    assert find_widest(doubts, right, precision=0.95, risk=0.05) == Promise(None)


@pytest.mark.parametrize("count", [200, 1000], ids=["one search", "two searches"])
def test_a_promise_is_broken_no_more_often_than_it_says(count: int) -> None:
    # Precision falls with the rank u as 1 - 0.4 u^3 does, so that of {rank <= d} is 1 - 0.1 d^3.
    random, broken = np.random.default_rng(7), 0
    for _ in range(300):
        ranks = random.random(count)
        right = random.random(count) < 1 - 0.4 * ranks**3
        found = find_widest(ranks, right, precision=0.95, risk=0.1)
        broken += found.doubt is not None and 1 - 0.1 * found.doubt**3 < 0.95
    # 30 on average at most; 45 and more would be seen once in 200 if they were 30.
    assert broken < 45
