"""Which batches are timed, and how many rows a step has."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.estimate.student import step_rows
from pipeline.estimate.teacher import choose_batches

sizes = st.integers(1, 60)


def all_batches(samples: int, rows_per_part: int, batch_size: int) -> list[range]:
    batches = []
    for part in range(0, samples, rows_per_part):
        stop = min(part + rows_per_part, samples)
        for start in range(part, stop, batch_size):
            batches.append(range(start, min(start + batch_size, stop)))
    return batches


@given(st.integers(1, 300), sizes, sizes)
def test_timed_batches_are_batches_of_the_pass_and_far_apart(
    samples: int, rows_per_part: int, batch_size: int
) -> None:
    there = all_batches(samples, rows_per_part, batch_size)
    first, *chosen = choose_batches(samples, rows_per_part, batch_size)
    places = [there.index(each) for each in chosen]
    assert first == there[0]
    assert places == sorted(places)
    if len(there) >= 3:
        assert len(set(places)) == 3
        assert places[2] - places[0] >= 2 * (len(there) // 3)
    # Those that come again come last, so that what comes before is distinct.
    assert places[: len(set(places))] == sorted(set(places))


@given(sizes, sizes, st.integers(1, 4), st.integers(1, 12))
def test_steps_see_every_row_once_an_epoch(
    rows: int, batch_size: int, accumulate: int, epochs: int
) -> None:
    steps = -(-rows // (batch_size * accumulate))
    found = step_rows(rows, batch_size, accumulate, steps * epochs)
    assert sum(found) == rows * epochs
    assert max(found) <= batch_size * accumulate
