"""Several ranks go through one order: together they have every batch, and each row once."""

from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_stream_chosen import COPIES, make_table
from tiny import CLASSES, make_cache, make_samples

from pipeline.errors import PipelineError, SampleError
from pipeline.samples import SampleBatch, Samples, make_views, open_samples
from pipeline.samples.arrays import ArraySamples
from pipeline.samples.batch import Indices
from pipeline.store import Cache
from pipeline.stream import Batch, Blend, Blended, Stream
from pipeline.stream.slices import Slices
from pipeline.targets import MixedLabels, PseudoLabels, Targets

ROWS = 23


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """23 rows in 6 parts."""
    folder = tmp_path_factory.mktemp("slices") / "cache"
    return make_cache(folder, make_samples(ROWS), rows_per_part=4)


def of_ranks(make: dict[str, Any], world_size: int, batches: int) -> list[list[Batch]]:
    """Take the first batches of each rank; gives those of one batch together."""
    streams = [Stream(**make, rank=rank, world_size=world_size) for rank in range(world_size)]
    taken = [list(islice(stream.forever(), batches)) for stream in streams]
    return [list(parts) for parts in zip(*taken, strict=True)]


def assert_together(whole: Batch, parts: list[Batch]) -> None:
    """Prove that the batches of all ranks, one behind another, are the batch of one."""
    assert list(chain(*(part.ids for part in parts))) == whole.ids
    assert torch.equal(torch.cat([part.inputs for part in parts]), whole.inputs)
    labels = [part.labels for part in parts]
    if isinstance(whole.labels, MixedLabels):
        for name in ("first", "second", "share"):
            joined = torch.cat([getattr(each, name) for each in labels])
            assert torch.equal(joined, getattr(whole.labels, name))
    else:
        assert torch.equal(torch.cat([torch.as_tensor(each) for each in labels]), whole.labels)
    if isinstance(whole.targets, Targets):
        logits = [part.targets.logits for part in parts if isinstance(part.targets, Targets)]
        assert torch.equal(torch.cat(logits), whole.targets.logits)
    if whole.pseudo_labels is not None:
        pseudo = [part.pseudo_labels for part in parts if part.pseudo_labels is not None]
        assert torch.equal(
            torch.cat([each.weights for each in pseudo]), whole.pseudo_labels.weights
        )


@given(rows=st.integers(0, 50), world_size=st.integers(1, 9))
def test_ranks_have_every_row_of_a_batch_once_and_about_as_many_each(
    rows: int, world_size: int
) -> None:
    slices = [Slices(rank, world_size).of(rows) for rank in range(world_size)]
    assert list(chain(*slices)) == list(range(rows))
    assert {len(each) for each in slices} <= {rows // world_size, -(-rows // world_size)}


@given(
    rows=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    world_size=st.integers(1, 5),
    workers=st.integers(1, 3),
    window_parts=st.integers(1, 3),
    first=st.integers(0, 3),
)
def test_all_ranks_and_workers_have_the_rest_of_an_epoch_exactly(
    rows: int, batch_size: int, world_size: int, workers: int, window_parts: int, first: int
) -> None:
    samples = make_samples(rows)
    made: dict[str, Any] = {"batch_size": batch_size, "window_parts": window_parts}
    whole = [
        (number, batch.ids)
        for _, number, batch in Stream(samples, **made)._batches(1, first, (0, 1))
    ]
    found: dict[int, list[str]] = {}
    for rank in range(world_size):
        stream = Stream(samples, **made, rank=rank, world_size=world_size)
        shares = [stream._batches(1, first, (worker, workers)) for worker in range(workers)]
        numbered = sorted((number, batch.ids) for share in shares for _, number, batch in share)
        assert [number for number, _ in numbered] == [number for number, _ in whole]
        for number, ids in numbered:
            found[number] = found.get(number, []) + ids
    assert list(found.items()) == whole


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_targets_and_labels_are_sliced_with_the_rows(world_size: int, cache: Cache) -> None:
    make: dict[str, Any] = {
        "samples": make_samples(ROWS),
        "cache": cache,
        "batch_size": 5,
        "window_parts": 2,
    }
    whole = islice(Stream(**make).forever(), 12)
    for one, parts in zip(whole, of_ranks(make, world_size, 12), strict=True):
        assert_together(one, parts)


def test_rows_without_a_rank_leave_shapes_behind(cache: Cache) -> None:
    stream = Stream(make_samples(ROWS), cache, batch_size=22, rank=1, world_size=2)
    last = list(stream)[-1]
    assert (last.ids, last.inputs.shape, len(torch.as_tensor(last.labels))) == ([], (0, 3), 0)
    assert isinstance(last.targets, Targets)
    assert last.targets.logits.shape == (0, 2)


def test_a_place_means_the_same_for_any_number_of_ranks(cache: Cache) -> None:
    make: dict[str, Any] = {
        "samples": make_samples(ROWS),
        "cache": cache,
        "batch_size": 5,
        "window_parts": 2,
    }
    begun = [Stream(**make, rank=rank, world_size=2) for rank in range(2)]
    seen = [
        sample_id
        for stream in begun
        for batch in islice(stream.forever(), 3)
        for sample_id in batch.ids
    ]
    assert begun[0].state_dict() == begun[1].state_dict()
    for world_size in (1, 3):
        rest = []
        for rank in range(world_size):
            stream = Stream(**make, rank=rank, world_size=world_size)
            stream.load_state_dict(begun[0].state_dict())
            rest += [sample_id for batch in stream for sample_id in batch.ids]
        assert sorted(seen + rest) == sorted(f"s{row}" for row in range(ROWS))


@dataclass(frozen=True)
class Watched:
    """Samples that remember each reading, and some of which cannot be read."""

    samples: ArraySamples
    broken: frozenset[int] = frozenset()
    name: str = "data.train"
    class_names: None = None
    reads: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.samples)

    def ids(self, start: int, stop: int) -> list[str]:
        return self.samples.ids(start, stop)

    def read(self, indices: Indices) -> SampleBatch:
        self.reads.append(np.asarray(indices).tolist())
        for row in self.broken.intersection(self.reads[-1]):
            raise SampleError(f"data.train: s{row} cannot be read")
        return self.samples.read(indices)


def test_a_rank_reads_its_own_samples_alone(cache: Cache) -> None:
    samples = Watched(make_samples(ROWS))
    stream = Stream(samples, cache, batch_size=6, rank=1, world_size=3, check=False)
    given = [sample_id for batch in stream for sample_id in batch.ids]
    assert [f"s{row}" for row in chain(*samples.reads)] == given
    assert len(given) == 2 + 2 + 2 + 2  # of 6, 6, 6 and 5 rows


@pytest.mark.parametrize("world_size", [2, 5])
def test_mixed_samples_are_those_of_one_rank(world_size: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (ROWS, 1, 4, 4), dtype=np.uint8)
    ids = np.array([f"s{row}" for row in range(ROWS)])
    samples = ArraySamples("data.train", None, images, np.arange(ROWS) % CLASSES, ids)
    fresh = make_views(
        samples, augment=[{"kind": "shift", "pixels": 1.0}], mix={"kind": "mixup", "alpha": 1.0}
    )
    make: dict[str, Any] = {"samples": samples, "fresh": fresh, "batch_size": 6}
    whole = list(islice(Stream(**make).forever(), 8))
    assert isinstance(whole[0].labels, MixedLabels)
    for one, parts in zip(whole, of_ranks(make, world_size, 8), strict=True):
        assert_together(one, parts)


@pytest.mark.parametrize("only_chosen", [True, False], ids=["chosen", "all"])
def test_pseudo_labels_are_sliced_with_the_rows(tmp_path: Path, only_chosen: bool) -> None:
    samples = make_samples(len(COPIES))
    make: dict[str, Any] = {
        "samples": samples,
        "cache": make_cache(tmp_path / "cache", samples, rows_per_part=7),
        "pseudo_labels": make_table(tmp_path / "table", samples, COPIES),
        "only_chosen": only_chosen,
        "batch_size": 9,
    }
    whole = list(islice(Stream(**make).forever(), 9))
    assert isinstance(whole[0].pseudo_labels, PseudoLabels)
    for one, parts in zip(whole, of_ranks(make, 4, 9), strict=True):
        assert_together(one, parts)


def text(folder: Path) -> Samples:
    words = np.random.default_rng(0).integers(1, 9, 31)
    (folder / "text.txt").write_text("\n".join("word " * count for count in words) + "\n")
    return open_samples(
        "text", base=folder, name="data.train", path="text.txt", tokenizer="bytes", length=48
    )


@pytest.mark.parametrize("grouped", [False, True], ids=["plain", "grouped"])
def test_rows_of_text_are_sliced_as_rows(tmp_path: Path, grouped: bool) -> None:
    make: dict[str, Any] = {"samples": text(tmp_path), "batch_size": 10, "group_by_length": grouped}
    whole = list(islice(Stream(**make).forever(), 8))
    for one, parts in zip(whole, of_ranks(make, 3, 8), strict=True):
        assert_together(one, parts)
        assert len(torch.as_tensor(one.labels)) > len(one.ids)


def test_each_source_of_a_blend_is_sliced(cache: Cache) -> None:
    def blend(rank: int, world_size: int) -> list[Blended]:
        ranks: dict[str, Any] = {"rank": rank, "world_size": world_size}
        few = Stream(make_samples(7), batch_size=1, seed=1, **ranks)
        many = Stream(make_samples(ROWS), cache, batch_size=6, **ranks)
        return list(islice(Blend([few, many]).forever(), 9))

    parts = [blend(rank, 2) for rank in range(2)]
    for one, *two in zip(blend(0, 1), *parts, strict=True):
        for place, batch in enumerate(one.batches):
            assert_together(batch, [each.batches[place] for each in two])


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_cannot_be_is_refused(rank: int, world_size: int) -> None:
    with pytest.raises(PipelineError) as refused:
        Stream(make_samples(4), batch_size=2, rank=rank, world_size=world_size)
    assert str(refused.value) == (
        f"stream: rank {rank} of world_size {world_size} is not possible; ranks are numbered from "
        "0 to world_size - 1. Give what torchrun says in RANK and WORLD_SIZE."
    )
