from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_cache, make_samples

from pipeline.errors import SampleError
from pipeline.samples import IdIndex, Locator, Samples
from pipeline.store import Cache, SampleTable
from pipeline.stream import Stream
from pipeline.stream.windows.window import Finder, Window, cache_window, sample_window

NAMES = ["classes", "logits", "tail"]


def ragged_window(positions: list[int]) -> Window:
    counts = np.array(positions, np.int64)
    rows, total = len(counts), int(counts.sum())
    return Window(
        bounds=np.array([0, rows]),
        indices=np.arange(rows) * 10,
        views=np.arange(rows) % 3,
        positions=counts,
        starts=np.cumsum(counts) - counts,
        over_rows={"embedding": np.arange(rows * 2).reshape(rows, 2)},
        over_positions={"logits": np.arange(total * 3).reshape(total, 3), "one": np.arange(total)},
    )


@given(
    positions=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    draw=st.data(),
)
def test_gathered_rows_bring_their_own_positions(positions: list[int], draw: st.DataObject) -> None:
    window = ragged_window(positions)
    places = draw.draw(st.lists(st.integers(0, len(positions) - 1), max_size=12))
    gathered = window.gather(np.array(places, np.int64))

    at = [
        position
        for place in places
        for position in range(sum(positions[:place]), sum(positions[: place + 1]))
    ]
    assert gathered["embedding"].tolist() == [[2 * place, 2 * place + 1] for place in places]
    assert gathered["one"].tolist() == at
    assert gathered["logits"].tolist() == [[3 * each, 3 * each + 1, 3 * each + 2] for each in at]


def test_what_was_gathered_shares_no_memory_with_the_window() -> None:
    window = ragged_window([1, 1])
    gathered = window.gather(np.array([0, 1]))
    assert not any(
        np.shares_memory(gathered[name], array)
        for name, array in {**window.over_rows, **window.over_positions}.items()
    )


def test_a_window_without_a_cache_is_the_samples_themselves() -> None:
    window = sample_window([range(8, 12), range(2)])
    assert window.indices.tolist() == [8, 9, 10, 11, 0, 1]
    assert window.gather(np.array([3])) == {}


def test_a_window_is_its_parts_one_after_the_other(tmp_path: Path) -> None:
    samples = make_samples(10)
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=4)
    window = cache_window(
        cache, [0, 2], finder=Finder(Locator(samples), len(samples)), names=NAMES, check=True
    )
    first, last = cache.read_part(0), cache.read_part(2)

    assert window.indices.tolist() == [0, 1, 2, 3, 8, 9]
    assert window.positions.tolist() == [1] * 6
    for name in NAMES:
        expected = np.concatenate([first[name], last[name]])
        assert np.array_equal(window.over_positions[name], expected)


@pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "reversed"])
def test_a_stream_that_checked_samples_knows_where_they_are(
    is_reversed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(tmp_path / "cache", make_samples(10), rows_per_part=4)
    read, indexed, plain, index = list[int](), list[int](), Cache.read_samples, IdIndex.__init__

    def note(self: Cache, part: int, *, check: bool = True) -> SampleTable:
        read.append(part)
        return plain(self, part, check=check)

    def note_index(self: IdIndex, samples: Samples) -> None:
        indexed.append(len(samples))
        index(self, samples)

    monkeypatch.setattr(Cache, "read_samples", note)
    monkeypatch.setattr(IdIndex, "__init__", note_index)
    order = np.arange(10)[::-1] if is_reversed else None
    stream = Stream(make_samples(10, order), cache, batch_size=3)
    ids = [name for batch in stream for name in batch.ids]
    assert sorted(ids) == sorted(f"s{row}" for row in range(10))
    assert read == ([0, 1, 2, 0, 1, 2] if is_reversed else [0, 1, 2])
    assert indexed == ([10] if is_reversed else [])


def test_samples_that_the_dataset_lost_are_named(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", make_samples(10), rows_per_part=4)
    locator = Locator(make_samples(8))
    with pytest.raises(SampleError) as refused:
        cache_window(cache, [2], finder=Finder(locator, 10), names=NAMES, check=True)
    assert str(refused.value) == (
        "data.train: 2 of the samples asked for are not in it: s8, s9; "
        "cache it again or restore the data"
    )


def test_the_table_of_a_part_in_order_is_read_once(tmp_path: Path) -> None:
    samples = make_samples(10)
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=4)
    finder = Finder(Locator(samples), len(samples))
    first = cache_window(cache, [0, 2], finder=finder, names=NAMES, check=True)
    for part in (0, 2):
        (tmp_path / "cache" / f"samples/{part:05d}.parquet").unlink()
    again = cache_window(cache, [0, 2], finder=finder, names=NAMES, check=True)
    assert again.indices.tolist() == first.indices.tolist()
    assert again.starts.tolist() == first.starts.tolist()
