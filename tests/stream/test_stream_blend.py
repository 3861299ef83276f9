"""Batches of several streams: each keeps its own order and place."""

from itertools import islice
from pathlib import Path

import torch
from tiny import make_cache, make_samples

from pipeline.store import open_cache
from pipeline.stream import Blend, Stream

FEW, MANY = 10, 33


def make_blend(tmp_path: Path) -> Blend:
    path = tmp_path / "cache"
    few, many = make_samples(FEW), make_samples(MANY)
    cache = open_cache(path) if path.exists() else make_cache(path, many, rows_per_part=5)
    return Blend(
        [Stream(few, batch_size=4, seed=1), Stream(many, cache, batch_size=6, window_parts=2)]
    )


def test_a_batch_has_rows_of_every_stream_one_behind_another(tmp_path: Path) -> None:
    blend = make_blend(tmp_path)
    blended = next(blend.forever())
    assert [len(batch.ids) for batch in blended.batches] == [4, 6]
    assert blended.ids == [*blended.batches[0].ids, *blended.batches[1].ids]
    assert torch.equal(blended.inputs[4:], blended.batches[1].inputs)
    assert [batch.targets is None for batch in blended.batches] == [True, False]


def test_an_epoch_is_that_of_the_longest_and_the_others_go_round(tmp_path: Path) -> None:
    blend = make_blend(tmp_path)
    assert len(blend) == 6
    endless = blend.forever()
    for epoch in range(2):
        assert blend.epoch == epoch
        batches = list(islice(endless, len(blend)))
        seen = [sample_id for blended in batches for sample_id in blended.batches[1].ids]
        assert sorted(seen) == sorted(f"s{row}" for row in range(MANY))
        few = [sample_id for blended in batches for sample_id in blended.batches[0].ids]
        # Three batches of 4, 4 and 2, twice.
        assert sorted(few) == sorted(f"s{row}" for row in range(FEW) for _ in range(2))


def test_a_blend_goes_on_with_the_very_batches_that_come_next(tmp_path: Path) -> None:
    blend = make_blend(tmp_path)
    batches = blend.forever()
    list(islice(batches, 8))
    state = blend.state_dict()
    expected = [blended.ids for blended in islice(batches, 9)]
    other = make_blend(tmp_path)
    other.load_state_dict(state)
    assert [blended.ids for blended in islice(other.forever(), 9)] == expected


def test_a_stream_comes_as_it_would_alone(tmp_path: Path) -> None:
    blend = make_blend(tmp_path)
    alone = make_blend(tmp_path).streams[1]
    together = [blended.batches[1].ids for blended in islice(blend.forever(), 13)]
    assert together == [batch.ids for batch in islice(alone.forever(), 13)]
