"""Small batches are taken together: they are those that are taken alone, and fail in their turn."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_stream_cached import make_cache as make_text_cache
from test_stream_cached import open_text
from test_stream_chosen import COPIES, make_table
from test_stream_slices import Watched, assert_together
from tiny import CLASSES, make_cache, make_samples

from pipeline.errors import SampleError
from pipeline.samples import make_views
from pipeline.samples.arrays import ArraySamples
from pipeline.store import open_cache
from pipeline.stream import Batch, Stream

ROWS = 90
Make = dict[str, Any]


def cached(folder: Path) -> Make:
    samples = make_samples(ROWS)
    return {"samples": samples, "cache": make_cache(folder / "cache", samples, rows_per_part=20)}


def unshuffled(folder: Path) -> Make:
    return {**cached(folder), "seed": None}


def mixed(folder: Path) -> Make:
    images = np.random.default_rng(0).integers(0, 255, (ROWS, 1, 4, 4), dtype=np.uint8)
    samples = ArraySamples("data.train", None, images, np.arange(ROWS) % CLASSES, None)
    augment = [{"kind": "shift", "pixels": 1.0}]
    return {
        "samples": samples,
        "fresh": make_views(samples, augment=augment, mix={"kind": "mixup", "alpha": 1.0}),
    }


def chosen(folder: Path) -> Make:
    samples = make_samples(len(COPIES))
    return {
        "samples": samples,
        "cache": make_cache(folder / "cache", samples, rows_per_part=7),
        "pseudo_labels": make_table(folder / "table", samples, COPIES),
        "fresh": make_views(samples, augment=[]),
    }


def a_rank(folder: Path) -> Make:
    return {**cached(folder), "rank": 1, "world_size": 3}


def a_rank_of_many(folder: Path) -> Make:
    """It has rows of few batches."""
    return {**cached(folder), "rank": 7, "world_size": 9}


def text(folder: Path) -> Make:
    """Rows of several positions each."""
    samples = open_text(folder)
    return {"samples": samples, "cache": open_cache(make_text_cache(folder, samples))}


def text_alone(folder: Path) -> Make:
    return {"samples": open_text(folder)}


MAKES = [cached, unshuffled, mixed, chosen, a_rank, a_rank_of_many, text, text_alone]


@pytest.mark.parametrize("large_bytes", [1, 10**6], ids=["large", "small"])
@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_batches_taken_together_are_those_taken_alone(
    make: Callable[[Path], Make],
    large_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.stream.windows.large.LARGE_BYTES", large_bytes)
    made = {**make(tmp_path), "batch_size": 4, "window_parts": 2}

    def batches() -> list[Batch]:
        return list(islice(Stream(**made).forever(), 60))

    together = batches()
    monkeypatch.setattr("pipeline.stream.ahead.MOST_AT_ONCE", 1)
    for one, other in zip(batches(), together, strict=True):
        assert_together(one, [other])


@pytest.mark.parametrize("broken", [0, 5, 37, ROWS - 1])
def test_a_sample_that_cannot_be_read_is_told_after_the_batches_before_it(broken: int) -> None:
    stream = Stream(Watched(make_samples(ROWS), frozenset({broken})), batch_size=4, seed=None)
    came = list[str]()
    with pytest.raises(SampleError, match=f"s{broken} cannot be read"):
        came.extend(name for batch in stream for name in batch.ids)
    assert came == [f"s{row}" for row in range(broken // 4 * 4)]
    assert stream.state_dict()["batch"] == broken // 4


def test_many_small_batches_are_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stream.ahead.MOST_AT_ONCE", 16)
    samples = Watched(make_samples(ROWS))
    assert len(list(Stream(samples, batch_size=4))) == 23
    first, many = 4, 4 * 16
    assert list(map(len, samples.reads)) == [first, many, ROWS - first - many]


@pytest.mark.parametrize("first", [0, 22], ids=["first", "last"])
def test_a_batch_that_is_large_comes_alone(first: int) -> None:
    """Also where the last one of an epoch, which is short, is the first that is made."""
    inputs = np.zeros((ROWS, 2**21), np.uint8)
    samples = Watched(ArraySamples("data.train", None, inputs, np.zeros(ROWS, int), None))
    stream = Stream(samples, batch_size=4)
    stream.load_state_dict({"epoch": 0, "batch": first, "batch_size": 4})
    batches = stream.forever()
    for _ in range(5):
        samples.reads.clear()
        rows = len(next(batches).ids)
        assert [len(each) for each in samples.reads] == [rows]
