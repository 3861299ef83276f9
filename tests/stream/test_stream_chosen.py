"""Streams of rows with pseudo-labels: which come, how often, and what they are called."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_cache, make_samples

from pipeline.errors import SampleError, TargetError
from pipeline.labelling import (
    TABLE_FILE,
    PseudoLabelTable,
    digest_table,
    open_table,
    write_summary,
)
from pipeline.labelling.output.table import write_table
from pipeline.samples import Samples, content_digests, make_views, subset
from pipeline.samples.arrays import ArraySamples
from pipeline.stream import Stream
from pipeline.targets import Targets

ROWS = 40


def make_table(
    folder: Path, samples: Samples, copies: np.ndarray, classes: int = 5
) -> PseudoLabelTable:
    """Write a table in which a row's label is its number modulo 5, its weight 1 / (1 + number)."""
    folder.mkdir()
    rows = np.arange(len(samples))
    read = samples.read(rows)
    with write_table(folder) as writer:
        for cut in np.array_split(rows, 3):
            number = cut.astype(np.float32)
            writer.write(
                {
                    "id": [read.ids[each] for each in cut],
                    "digest": content_digests(read.inputs[cut]),
                    "label": (cut % 5).astype(np.int32),
                    "label_name": [None] * len(cut),
                    "confidence": number,
                    "margin": number,
                    "entropy": number,
                    "weight": 1 / (1 + number),
                    "copies": copies[cut].astype(np.int32),
                    "chosen": copies[cut] > 0,
                    "why_not": [None] * len(cut),
                }
            )
        writer.describe({"class_count": classes, "class_names": None, "is_skewed": False})
    write_summary(folder, {"sha256": digest_table(folder / TABLE_FILE)})
    return open_table(folder)


def open_stream(
    tmp_path: Path, copies: np.ndarray, *, with_cache: bool = True, only_chosen: bool = True
) -> Stream:
    samples = make_samples(ROWS)
    table = make_table(tmp_path / "table", samples, copies)
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=7) if with_cache else None
    return Stream(
        samples,
        cache,
        batch_size=6,
        window_parts=2,
        pseudo_labels=table,
        only_chosen=only_chosen,
    )


COPIES = np.array([row % 3 for row in range(ROWS)])
COPIES[7:14] = 0  # a part without any


@pytest.mark.parametrize("with_cache", [True, False], ids=["cache", "samples"])
def test_an_epoch_has_the_chosen_rows_as_often_as_the_table_says(
    tmp_path: Path, with_cache: bool
) -> None:
    stream = open_stream(tmp_path, COPIES, with_cache=with_cache)
    orders = []
    for _ in range(2):
        batches = list(stream)
        rows = [int(sample_id[1:]) for batch in batches for sample_id in batch.ids]
        assert sorted(rows) == np.repeat(np.arange(ROWS), COPIES).tolist()
        assert len(batches) == len(stream) == -(-int(COPIES.sum()) // 6)
        orders.append(rows)
        for batch in batches:
            number = [int(sample_id[1:]) for sample_id in batch.ids]
            assert batch.inputs[:, 0].tolist() == number
            assert batch.pseudo_labels is not None
            assert batch.pseudo_labels.labels.tolist() == [row % 5 for row in number]
            expected = [1 / (1 + row) for row in number]
            assert batch.pseudo_labels.weights.tolist() == pytest.approx(expected)
    assert orders[0] != orders[1]


def test_targets_are_those_of_the_same_row(tmp_path: Path) -> None:
    stream = open_stream(tmp_path, COPIES)
    plain = Stream(stream.samples, stream.cache, batch_size=ROWS, seed=None)
    everything = next(iter(plain)).targets
    assert isinstance(everything, Targets)
    for batch in stream:
        rows = [int(sample_id[1:]) for sample_id in batch.ids]
        assert isinstance(batch.targets, Targets)
        assert torch.equal(batch.targets.logits, everything.logits[rows])


def test_without_only_chosen_every_row_comes_and_the_others_have_no_label(tmp_path: Path) -> None:
    stream = open_stream(tmp_path, COPIES, only_chosen=False)
    seen: dict[str, int] = {}
    for batch in stream:
        assert batch.pseudo_labels is not None
        seen |= dict(zip(batch.ids, batch.pseudo_labels.labels.tolist(), strict=True))
    assert seen == {f"s{row}": row % 5 if COPIES[row] else -1 for row in range(ROWS)}


@pytest.mark.parametrize("with_cache", [True, False], ids=["cache", "samples"])
def test_a_stream_goes_on_with_the_very_batch_that_comes_next(
    tmp_path: Path, with_cache: bool
) -> None:
    stream = open_stream(tmp_path, COPIES, with_cache=with_cache)
    batches = stream.forever()
    for _ in range(9):
        next(batches)
    state = stream.state_dict()
    expected = [next(batches).ids for _ in range(7)]
    stream.load_state_dict(state)
    again = stream.forever()
    assert [next(again).ids for _ in range(7)] == expected


def test_copies_of_a_row_are_seen_in_views_of_their_own(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 1, 8, 8), dtype=np.uint8)
    samples = ArraySamples("data.train", None, images, None, None)
    table = make_table(tmp_path / "table", samples, np.full(ROWS, 3))
    views = make_views(samples, augment=[{"kind": "shift", "pixels": 2.0}], seed=1)
    stream = Stream(samples, batch_size=16, pseudo_labels=table, fresh=views)
    seen: dict[str, set[bytes]] = {}
    for _ in range(2):
        for batch in stream:
            for sample_id, image in zip(batch.ids, batch.inputs.numpy(), strict=True):
                seen.setdefault(sample_id, set()).add(image.tobytes())
    assert {len(views) for views in seen.values()} == {6}


def test_a_table_of_other_rows_than_the_cache_is_refused(tmp_path: Path) -> None:
    samples = make_samples(ROWS)
    table = make_table(tmp_path / "table", make_samples(ROWS, np.arange(ROWS)[::-1]), COPIES)
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=7)
    with pytest.raises(SampleError, match=r"its rows are not those of .*: 40 differ: s39, s38"):
        Stream(samples, cache, batch_size=6, pseudo_labels=table)


def test_a_table_of_fewer_rows_than_the_cache_is_refused(tmp_path: Path) -> None:
    samples = make_samples(ROWS)
    table = make_table(tmp_path / "table", subset(samples, count=30, seed=0), COPIES[:30])
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=7)
    with pytest.raises(SampleError, match=r"its rows are not those of"):
        Stream(samples, cache, batch_size=6, pseudo_labels=table)


def test_ids_that_do_not_belong_to_the_data_are_counted_and_named(tmp_path: Path) -> None:
    table = make_table(tmp_path / "table", make_samples(ROWS), COPIES)
    with pytest.raises(SampleError, match=r"missing: 10: s30, s31, s32, s33, s34 and 5 more"):
        Stream(make_samples(30), batch_size=6, pseudo_labels=table)


def test_a_table_that_chose_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no row has a pseudo-label, so there is nothing to tra"):
        open_stream(tmp_path, np.zeros(ROWS, int))
