from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.order import Order, Rows, pieces

orders = st.builds(
    Order,
    rows=st.integers(1, 60),
    rows_per_part=st.integers(1, 20),
    window_parts=st.integers(1, 6),
    seed=st.none() | st.integers(-3, 2**64),
    views=st.integers(1, 4),
)


def batches(
    order: Order, epoch: int, batch_size: int, first_batch: int = 0, *, grouped: bool = False
) -> list[list[int]]:
    """List the rows of each batch, counted over all views."""
    rows: list[list[int]] = [[]]
    windows = []
    for parts in order.windows(epoch):
        loaded = sorted(parts.tolist())
        held = [row for part in loaded for row in order.part_rows(part)]
        places = order.places(loaded, epoch)
        windows.append(held if places is None else [held[place] for place in places])

    def regroup(window: int, places: Rows, first: int) -> Rows:
        lengths = np.array([length_of(windows[window][place]) for place in places])
        return order.group(
            places, lengths, window=window, epoch=epoch, first=first, batch_size=batch_size
        )

    cut = partial(pieces, order, epoch=epoch, batch_size=batch_size, first_batch=first_batch)
    for piece in cut(regroup=regroup) if grouped else cut():
        rows[-1] += [windows[piece.window][place] for place in piece.places]
        if piece.ends_batch:
            rows.append([])
    assert rows.pop() == []
    return rows


def length_of(row: int) -> int:
    return 7 * row % 11


def rows_of(order: Order, epoch: int, batch_size: int = 4) -> list[int]:
    return [row for batch in batches(order, epoch, batch_size) for row in batch]


@given(order=orders, epoch=st.integers(0, 5), batch_size=st.integers(1, 70))
def test_every_row_comes_once_an_epoch_in_full_batches(
    order: Order, epoch: int, batch_size: int
) -> None:
    cut = batches(order, epoch, batch_size)
    first = order.view(epoch) * order.rows
    assert sorted(row for batch in cut for row in batch) == list(range(first, first + order.rows))
    assert all(len(batch) == batch_size for batch in cut[:-1])
    assert 1 <= len(cut[-1]) <= batch_size


@given(order=orders, epoch=st.integers(0, 5), sizes=st.tuples(*[st.integers(1, 70)] * 2))
def test_the_sequence_of_rows_does_not_depend_on_the_batch_size(
    order: Order, epoch: int, sizes: tuple[int, int]
) -> None:
    assert rows_of(order, epoch, sizes[0]) == rows_of(order, epoch, sizes[1])


@given(order=orders, batch_size=st.integers(1, 20), draw=st.data())
def test_resuming_at_any_batch_gives_the_very_rest(
    order: Order, batch_size: int, draw: st.DataObject
) -> None:
    whole = batches(order, 1, batch_size)
    first = draw.draw(st.integers(0, len(whole)))
    assert batches(order, 1, batch_size, first) == whole[first:]


@given(order=orders, epoch=st.integers(0, 5))
def test_windows_hold_every_part_once_and_no_more_parts_than_asked(
    order: Order, epoch: int
) -> None:
    windows = order.windows(epoch)
    parts = sorted(np.concatenate(windows).tolist())
    assert parts == [part for part in range(order.part_count) if order.rows_of(part, epoch)]
    assert all(len(parts) == order.window_parts for parts in windows[:-1])
    assert sum(order.window_size(parts, epoch) for parts in windows) == order.rows


def test_epochs_and_seeds_differ() -> None:
    order, other = Order(64, 8, 2, seed=0), Order(64, 8, 2, seed=1)
    seen = [rows_of(order, 0), rows_of(order, 1), rows_of(other, 0), rows_of(other, 1)]
    assert len({tuple(rows) for rows in seen}) == 4
    assert rows_of(order, 0) == rows_of(Order(64, 8, 2, seed=0), 0)


def test_rows_come_as_they_lie_without_a_seed() -> None:
    assert rows_of(Order(30, 7, 2, seed=None), 3) == list(range(30))


@pytest.mark.parametrize("window_parts", [1, 2, 8])
def test_rows_are_mixed_within_their_window_only(window_parts: int) -> None:
    order = Order(64, 8, window_parts, seed=0)
    rows, start = rows_of(order, 0), 0
    for parts in order.windows(0):
        stop = start + order.window_size(parts, 0)
        assert {row // 8 for row in rows[start:stop]} == set(parts.tolist())
        assert rows[start:stop] != sorted(rows[start:stop])
        start = stop


def test_the_order_is_what_it_was_in_the_first_version() -> None:
    # A change would give resumed runs another order than the one they began with.
    assert rows_of(Order(12, 4, 2, seed=0), 0) == [0, 11, 10, 3, 2, 9, 8, 1, 7, 4, 5, 6]


@given(order=orders, epoch=st.integers(0, 3), batch_size=st.integers(1, 20), draw=st.data())
def test_grouped_by_length_every_row_comes_once_and_resumes_anywhere(
    order: Order, epoch: int, batch_size: int, draw: st.DataObject
) -> None:
    begin = order.view(epoch) * order.rows
    whole = batches(order, epoch, batch_size, grouped=True)
    rows = sorted(row for batch in whole for row in batch)
    assert rows == list(range(begin, begin + order.rows))
    assert all(len(batch) == batch_size for batch in whole[:-1])
    first = draw.draw(st.integers(0, len(whole)))
    assert batches(order, epoch, batch_size, first, grouped=True) == whole[first:]


def test_grouped_batches_are_of_one_length_in_a_random_order() -> None:
    order = Order(440, 55, 8, seed=0)
    whole = batches(order, 0, 8, grouped=True)
    lengths = [sorted({length_of(row) for row in batch}) for batch in whole]
    assert sum(len(each) == 1 for each in lengths) == 55
    assert lengths != sorted(lengths)
    assert whole != batches(order, 1, 8, grouped=True)


def test_without_a_seed_nothing_is_grouped() -> None:
    order = Order(30, 7, 2, seed=None)
    assert batches(order, 0, 4, grouped=True) == batches(order, 0, 4)


def test_an_epoch_is_of_the_next_view_and_after_the_last_of_the_first() -> None:
    order = Order(10, 4, 2, seed=1, views=3)
    assert [order.view(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert sorted(rows_of(order, 4)) == list(range(10, 20))
    held_out = Order(10, 4, 2, seed=None, views=3)
    assert rows_of(held_out, 5) == list(range(10))
