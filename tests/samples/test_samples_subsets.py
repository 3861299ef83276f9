from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SampleError
from pipeline.samples import Samples, subset, without
from pipeline.samples.arrays import ArraySamples


def numbered(
    count: int, labels: list[int] | None = None, names: tuple[str, ...] | None = None
) -> Samples:
    rows = None if labels is None else np.array(labels, dtype=np.int64)
    return ArraySamples("data.train", names, np.arange(count)[:, None], rows, None)


@given(st.data(), st.integers(1, 300), st.integers(0, 2**63))
def test_subset_is_seeded_ascending_and_contained_in_larger_ones(
    data: st.DataObject, total: int, seed: int
) -> None:
    count = data.draw(st.integers(1, total))
    larger = data.draw(st.integers(count, total))
    chosen = subset(numbered(total), count=count, seed=seed).indices
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, subset(numbered(total), count=count, seed=seed).indices)
    assert set(chosen) <= set(subset(numbered(total), count=larger, seed=seed).indices)


@given(st.integers(1, 200), st.data())
def test_without_leaves_exactly_the_others(total: int, data: st.DataObject) -> None:
    skipped = data.draw(st.lists(st.integers(0, total - 1), unique=True))
    left = without(numbered(total), skipped)
    kept = [n for n in range(total) if n not in skipped]
    assert left.ids(0, len(left)) == [str(n) for n in kept]
    assert left.read(range(len(left))).inputs[:, 0].tolist() == kept


@given(st.lists(st.integers(-1, 3), min_size=20, max_size=60), st.integers(0, 9))
def test_balanced_subset_has_equally_many_of_each_class(labels: list[int], seed: int) -> None:
    labels += [0, 1, 2, 3] * 2
    chosen = subset(numbered(len(labels), labels), count=8, seed=seed, balanced=True)
    assert sorted(chosen.labels(range(8)).tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (np.diff(chosen.indices) > 0).all()


@given(st.integers(0, 60), st.integers(1, 40), st.booleans(), st.integers(0, 9))
def test_subsets_that_skip_share_no_sample_and_leave_none(
    skip: int, count: int, balanced: bool, seed: int
) -> None:
    labels = [n % 4 for n in range(104)]
    skip, count = (4 * skip // 4, 4 * count // 4) if not balanced else (skip // 4 * 4, 4)
    first, next_ones, others = (
        subset(numbered(104, labels), seed=seed, balanced=balanced, **options).indices.tolist()
        if options.get("count", 1)
        else []
        for options in ({"count": skip}, {"skip": skip, "count": count}, {"skip": skip + count})
    )
    assert sorted([*first, *next_ones, *others]) == list(range(104))
    assert (len(first), len(next_ones)) == (skip, count)


def test_what_is_skipped_needs_no_labels_to_be_left_out() -> None:
    labelled, unlabelled = numbered(50, [n % 5 for n in range(50)]), numbered(50)
    few = subset(labelled, count=10, seed=3).indices.tolist()
    rest = subset(unlabelled, skip=10, seed=3).indices.tolist()
    assert sorted([*few, *rest]) == list(range(50))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": 8, "count": 3}, "count must be between 1 and 2, the number of samples after the"),
        ({"skip": 10}, "a subset cannot skip 10 samples; there are 10"),
    ],
    ids=["count", "all"],
)
def test_more_than_there_are_after_skipping_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SampleError, match=message):
        subset(numbered(10), seed=0, **options)


def test_another_seed_chooses_other_samples() -> None:
    first, second = (subset(numbered(100), count=50, seed=seed).indices for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_subset_of_a_subset_reads_the_right_samples() -> None:
    outer = subset(numbered(100, [n % 5 for n in range(100)]), count=40, seed=3)
    inner = subset(outer, count=10, seed=4, balanced=True)
    batch = inner.read([9, 0])
    assert inner.name == "data.train"
    assert batch.ids == [inner.ids(9, 10)[0], inner.ids(0, 1)[0]]
    assert batch.inputs[:, 0].tolist() == [int(name) for name in batch.ids]
    assert batch.labels.tolist() == [int(name) % 5 for name in batch.ids]


def test_nothing_to_skip_is_the_dataset_itself() -> None:
    samples = numbered(3)
    assert without(samples, ()) is samples


@pytest.mark.parametrize(
    ("labels", "names", "count", "message"),
    [
        (None, None, 11, "a subset of 11 cannot be taken; count must be between 1 and 10"),
        (None, None, 0, "a subset of 0 cannot be taken"),
        (None, None, 4, "a balanced subset needs labels, and no sample has one; name the labels"),
        (
            [0, 1] * 5,
            None,
            5,
            "a balanced subset of 5 over 2 classes is not equal; take a multiple of 2, such as 4",
        ),
        (
            [0] * 7 + [1] * 3,
            ("cat", "dog", "eel"),
            6,
            "needs 2 samples of every class; too few of eel (0); take fewer",
        ),
        (
            [0] * 9 + [5],
            None,
            4,
            "needs 2 samples of every class; too few of class 5 (1); take fewer",
        ),
    ],
    ids=["too many", "none", "no labels", "unequal", "class without", "too few"],
)
def test_impossible_subsets_are_refused(
    labels: list[int] | None, names: tuple[str, ...] | None, count: int, message: str
) -> None:
    with pytest.raises(SampleError) as caught:
        subset(numbered(10, labels, names), count=count, seed=0, balanced=count not in (0, 11))
    assert str(caught.value).startswith("data.train: ")
    assert message in str(caught.value)
