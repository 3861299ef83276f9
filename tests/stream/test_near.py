"""Rows of a window are read once, and are the rows that would have been read one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.samples import Samples, open_samples
from pipeline.samples.tables.rows import FileRows
from pipeline.stream import Stream

ROWS, BATCH = 20_000, 500


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    inputs = np.arange(ROWS * 4, dtype=np.int32).reshape(ROWS, 4)
    np.save(tmp_path / "x.npy", inputs)
    return open_samples("arrays", base=tmp_path, name="data.train", inputs="x.npy")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each reading of a file was of."""
    counts: list[int] = []
    read = FileRows.__getitem__

    def counted(self: FileRows, indices: Any) -> Any:
        counts.append(len(indices))
        return read(self, indices)

    monkeypatch.setattr(FileRows, "__getitem__", counted)
    return counts


def rows_of(stream: Stream) -> list[int]:
    batches = list(stream)
    for batch in batches:
        wanted = np.array([int(name) for name in batch.ids])
        assert np.array_equal(batch.inputs[:, 0].numpy(), 4 * wanted)
    return [int(name) for batch in batches for name in batch.ids]


@pytest.mark.parametrize("window_parts", [1, 8])
def test_a_window_is_read_in_one_go(samples: Samples, reads: list[int], window_parts: int) -> None:
    stream = Stream(samples, batch_size=BATCH, window_parts=window_parts)
    first, second = rows_of(stream), rows_of(stream)
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    if window_parts == 1:  # one by one; an epoch may begin with the part that the last ended with
        assert set(reads) == {8192, 3616}
        assert len(reads) in (5, 6)
    else:
        assert reads == [ROWS]


def test_rows_in_order_are_read_some_batches_at_a_time(
    samples: Samples, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stream.ahead.MOST_AT_ONCE", 16)
    assert rows_of(Stream(samples, batch_size=BATCH, seed=None)) == list(range(ROWS))
    assert max(reads) == 16 * BATCH


def test_a_rank_of_many_does_not_read_what_is_mostly_others(
    samples: Samples, reads: list[int]
) -> None:
    for world_size, is_held in ((2, True), (1000, False)):
        reads.clear()
        batch = next(iter(Stream(samples, batch_size=2000, rank=1, world_size=world_size)))
        assert len(batch.ids) == 2000 // world_size
        assert (ROWS in reads) == is_held
