from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labelling.ranking import Rows, Taker, select, sortable

numbers = st.floats(0, 2.0**100, width=32)


@given(st.lists(numbers, min_size=2, max_size=50))
def test_keys_have_the_order_of_their_numbers(values: list[float]) -> None:
    array = np.array(values, np.float32)
    keys = sortable(array)
    assert np.array_equal(np.argsort(keys, kind="stable"), np.argsort(array, kind="stable"))


def test_a_negative_zero_is_the_lowest_number_of_all() -> None:
    assert sortable(np.array([-0.0, 0.0], np.float32)).tolist() == [0, 0]


@given(st.data(), st.integers(0, 200), st.integers(1, 5), st.integers(1, 70))
def test_the_surest_of_each_group_are_taken_whatever_the_blocks(
    data: st.DataObject, count: int, groups: int, block: int
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    of_group = random.integers(-1, groups, count)
    keys = sortable(random.integers(0, data.draw(st.integers(1, 300)), count).astype(np.float32))
    wanted = random.integers(0, 80, groups)

    def read() -> Iterator[Rows]:
        for start in range(0, count, block):
            yield of_group[start : start + block], keys[start : start + block]

    taker = Taker(select(read, wanted))
    taken = np.concatenate([np.empty(0, bool), *(taker.take(*rows) for rows in read())])
    expected = np.zeros(count, bool)
    for group in range(groups):
        places = np.flatnonzero(of_group == group)
        expected[places[np.argsort(keys[places], kind="stable")][: wanted[group]]] = True
    assert np.array_equal(taken, expected)
