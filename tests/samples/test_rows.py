"""Rows of files that are read a stretch at a time are those that are read one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SampleError
from pipeline.samples import open_samples, subset
from pipeline.samples.batch import hold_samples
from pipeline.samples.tables.rows import CALL_BYTES, HELD_BYTES, FileRows, HeldRows, hold_rows

ARRAY = np.arange(40 * 3, dtype=np.int32).reshape(40, 3)


def file_rows(path: Path, array: np.ndarray = ARRAY) -> FileRows:
    path.write_bytes(b"head" + array.tobytes())
    return FileRows(path, 4, array.shape, array.dtype)


def take(rows: Any, places: np.ndarray) -> np.ndarray:
    taken: np.ndarray = rows[places]
    return taken


@given(
    st.lists(st.integers(0, 39), min_size=1, max_size=9),
    st.lists(st.integers(0, 39), max_size=30),
)
def test_held_rows_are_those_of_the_file(
    tmp_path_factory: Any, held: list[int], asked: list[int]
) -> None:
    rows = file_rows(tmp_path_factory.getbasetemp() / "held.bin")
    near = hold_rows(rows, take, np.array(held), len(held))
    assert isinstance(near, HeldRows)
    assert (near.shape, near.dtype) == (rows.shape, rows.dtype)
    assert len(near.held) == max(held) - min(held) + 1
    # Also rows that are not held.
    assert np.array_equal(near[np.array(asked, dtype=np.int64)], ARRAY[asked])


def test_rows_are_held_where_that_takes_less_time_and_no_more_memory_than_allowed() -> None:
    def refuse(rows: Any, places: np.ndarray) -> np.ndarray:
        raise AssertionError(f"{len(places)} rows are read")

    row = np.zeros((1, 1000), np.uint8)
    rows = FileRows(Path("nowhere"), 0, (10**6, 1000), row.dtype)
    far = np.array([0, CALL_BYTES])  # 8,193,000 bytes between them
    for indices, asked in ((far, 999), (np.array([0, HELD_BYTES // 1000]), 10**6)):
        assert hold_rows(rows, refuse, indices, asked) is rows
    read = hold_rows(rows, lambda _, places: np.zeros((len(places), 1000), np.uint8), far, 1001)
    assert isinstance(read, HeldRows)
    assert len(read.held) == CALL_BYTES + 1
    for nothing in (np.array([], np.int64), far):
        assert hold_rows(row, take, nothing, 10**6) is row


def test_a_subset_and_its_arrays_are_held_by_their_own_indices(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ARRAY)
    np.save(tmp_path / "ids.npy", np.array([f"é{place}" for place in range(40)]))
    np.save(tmp_path / "y.npy", np.arange(40))
    whole = open_samples(
        "arrays", base=tmp_path, name="x", inputs="x.npy", labels="y.npy", ids="ids.npy"
    )
    some = subset(whole, count=12, seed=3)
    near = hold_samples(some, np.arange(4, 9), 5)
    held = near.samples.inputs  # type: ignore[attr-defined]
    assert isinstance(held, HeldRows)
    assert held.first == some.indices[4]
    for places in ([8, 4, 4], [0, 11], list(range(12))):
        one, other = near.read(places), some.read(places)
        assert one.ids == other.ids
        assert np.array_equal(one.inputs, other.inputs)
        assert np.array_equal(one.labels, other.labels)


def test_a_file_that_was_cut_short_is_named_when_it_is_held(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ARRAY)
    samples = open_samples("arrays", base=tmp_path, name="data.train", inputs="x.npy")
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(400)
    with pytest.raises(SampleError, match=r"data.train: the file ends 208 bytes early"):
        hold_samples(samples, np.arange(40), 40)
