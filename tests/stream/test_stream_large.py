"""Fields of large entries: mapped where they can be, gathered from several arrays, let go."""

from pathlib import Path
from threading import Event
from threading import enumerate as enumerate_threads
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_logits, make_samples, make_spec

from pipeline.errors import CorruptPart
from pipeline.samples import content_digests
from pipeline.samples.arrays import ArraySamples
from pipeline.store import (
    Cache,
    Field,
    Plan,
    SampleTable,
    claim_part,
    commit_part,
    finish,
    open_cache,
    write_plan,
)
from pipeline.stream import Stream
from pipeline.stream.windows import large
from pipeline.stream.windows.large import (
    LargeFields,
    as_blocks,
    gather,
    split_large,
)
from pipeline.stream.windows.window import Window
from pipeline.targets import FeatureSpec, Targets, TargetSpec, encode, target_fields

ROWS, SHAPE = 20, (4, 15, 10)  # 1,200 bytes in float16
SPEC = FeatureSpec("map", "float16", SHAPE, "rows")
MAPS = np.random.default_rng(0).normal(size=(ROWS, *SHAPE)).astype(np.float16)


def make_cache(folder: Path, backend: str = "zarr", compression: str = "none") -> Cache:
    samples, spec, logits = make_samples(ROWS), make_spec(2), make_logits(ROWS)
    about = {"targets": spec.to_json(), "features": [SPEC.to_json()]}
    fields = (*target_fields(spec), *SPEC.fields)
    plan = Plan(ROWS, 6, backend, compression, fields, {}, about)
    write_plan(folder, plan)
    for part in range(plan.part_count):
        rows = plan.part_range(part)
        read, ones = samples.read(rows), np.ones(len(rows), np.int32)
        table = SampleTable(read.ids, content_digests(read.inputs), ones - 1, read.labels, ones)
        arrays = encode(spec, logits[rows.start : rows.stop])
        with claim_part(folder, part):
            commit_part(folder, plan, part, table, arrays | {"feature_map": MAPS[rows]}, {})
    finish(folder, plan)
    return open_cache(folder)


def make_text_cache(
    folder: Path, compression: str, positions_each: int | None = None
) -> tuple[Cache, ArraySamples, list[np.ndarray]]:
    """Cache rows of 100 to 300 positions each, or of so many; gives what the logits of each are."""
    random, rows, length = np.random.default_rng(1), 23, 301
    spec = TargetSpec("top_k", 1000, 8)
    counts = random.integers(100, length, rows)
    counts[:] = positions_each or counts
    ids = np.array([str(row) for row in range(rows)])
    samples = ArraySamples("rows", None, np.arange(rows)[:, None], np.zeros(rows, int), ids)
    fields = (*target_fields(spec), Field("tokens", "uint16", (length,), "rows"))
    about = {"targets": spec.to_json(), "tokens": {"task": "next_token"}}
    plan, answers = Plan(rows, 6, "zarr", compression, fields, {}, about), list[np.ndarray]()
    write_plan(folder, plan)
    for part in range(plan.part_count):
        own = plan.part_range(part)
        read, positions = samples.read(own), counts[own].astype(np.int32)
        logits = random.normal(size=(int(positions.sum()), 1000)).astype(np.float32)
        arrays = encode(spec, torch.from_numpy(logits))
        arrays["tokens"] = np.zeros((len(own), length), np.uint16)
        answers += np.split(arrays["logits"], np.cumsum(positions)[:-1])
        table = SampleTable(
            read.ids, content_digests(read.inputs), positions * 0, read.labels, positions
        )
        with claim_part(folder, part):
            commit_part(folder, plan, part, table, arrays, {})
    finish(folder, plan)
    return open_cache(folder), samples, answers


@pytest.mark.parametrize("window_parts", [1, 2, 8])
@pytest.mark.parametrize("layout", ["zarr-none", "zarr-lz4", "parquet-none"])
def test_every_sample_comes_with_its_own_map(
    tmp_path: Path, layout: str, window_parts: int
) -> None:
    cache = make_cache(tmp_path / "cache", *layout.split("-"))
    stream = Stream(
        make_samples(ROWS), cache, batch_size=7, window_parts=window_parts, features=["map"]
    )
    for batch in (batch for _ in range(3) for batch in stream):
        rows = batch.inputs[:, 0].long().numpy()
        assert np.array_equal(batch.features["map"].numpy(), MAPS[rows])


def test_without_soft_targets_only_features_are_read(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache")
    for path in (tmp_path / "cache/targets").glob("*.zarr/logits/c.*"):
        path.unlink()
    stream = Stream(make_samples(ROWS), cache, batch_size=7, features=["map"], soft=False)
    assert all(batch.targets is None for batch in stream)


def test_raw_files_are_mapped_and_compressed_ones_are_not(tmp_path: Path) -> None:
    raw = LargeFields(["feature_map"])
    arrays = raw.read(make_cache(tmp_path / "raw"), 0)
    assert not arrays["feature_map"].flags.writeable
    assert raw.read(open_cache(tmp_path / "raw"), 0) is arrays
    packed = LargeFields(["feature_map"])
    packed.read(make_cache(tmp_path / "packed", "zarr", "lz4"), 0)
    assert not packed.parts  # arrays of their own are not kept from epoch to epoch


def test_maps_that_were_used_longest_ago_are_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, fields = make_cache(tmp_path / "cache"), LargeFields(["feature_map"])
    monkeypatch.setattr(large, "KEPT_BYTES", 2 * 6 * 1200)
    for part in (0, 1, 0, 2):
        fields.read(cache, part)
    assert list(fields.parts) == [0, 2]


def test_a_flipped_byte_of_a_map_is_found_in_the_first_epoch(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache")
    path = tmp_path / "cache/targets/00001.zarr/feature_map/c.0.0.0.0"
    content = bytearray(path.read_bytes())
    content[777] ^= 4
    path.write_bytes(content)
    stream = Stream(make_samples(ROWS), cache, batch_size=7, features=["map"])
    with pytest.raises(CorruptPart, match=r"part 1: .*feature_map/c.0.0.0.0: its checksum differs"):
        list(stream)


def test_what_the_first_batch_needs_is_read_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, samples, _ = make_text_cache(tmp_path / "cache", "none")
    read, plain = list[int](), LargeFields.read

    def note(self: LargeFields, cache: Cache, part: int) -> dict[str, Any]:
        read.append(part)
        return plain(self, cache, part)

    monkeypatch.setattr(LargeFields, "read", note)
    monkeypatch.setattr(large, "_cores", lambda: 1)
    found = []
    for seed in range(6):
        read.clear()
        stream = Stream(samples, cache, batch_size=1, window_parts=8, seed=seed)
        rows = [int(batch.inputs[0, 0]) for batch in stream]
        assert sorted(read) == [0, 1, 2, 3]
        assert read[0] == rows[0] // 6
        found.append(read[0])
    assert len(set(found)) > 1


def test_what_nobody_waits_for_any_more_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, samples, _ = make_text_cache(tmp_path / "cache", "none")
    read, plain, go_on = list[int](), LargeFields.read, Event()

    def slow(self: LargeFields, cache: Cache, part: int) -> dict[str, Any]:
        if read:
            assert go_on.wait(60)
        read.append(part)
        return plain(self, cache, part)

    monkeypatch.setattr(LargeFields, "read", slow)
    monkeypatch.setattr(large, "_cores", lambda: 1)
    stream, before = Stream(samples, cache, batch_size=1, window_parts=8), set(enumerate_threads())
    next(iter(stream))
    (thread,) = set(enumerate_threads()) - before
    del stream
    go_on.set()
    thread.join(60)
    assert not thread.is_alive()
    assert len(read) <= 2  # of four: one was wanted, one may have been begun


def test_fields_are_large_from_a_kilobyte_on(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache")
    assert split_large(cache, ["logits", "feature_map"]) == (["logits"], ["feature_map"])


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any),
    seed=st.integers(0, 99),
    count=st.integers(0, 20),
    is_sorted=st.booleans(),
)
def test_gathering_is_taking_from_all_in_a_row(
    sizes: list[int], seed: int, count: int, is_sorted: bool
) -> None:
    random = np.random.default_rng(seed)
    blocks = [random.normal(size=(size, 3)) for size in sizes]
    at = random.integers(0, sum(sizes), count)
    at = np.sort(at) if is_sorted else at
    assert np.array_equal(gather(as_blocks(blocks), at), np.concatenate(blocks)[at])


@given(
    rows=st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=1, max_size=5),
    draw=st.data(),
)
def test_rows_of_several_positions_come_one_after_the_other(
    rows: list[list[int]], draw: st.DataObject
) -> None:
    """`rows` are the numbers of entries of the rows of each part."""
    counts = np.array([count for part in rows for count in part], np.int64)
    starts = np.cumsum(counts) - counts
    entries = np.arange(2 * counts.sum()).reshape(-1, 2)
    ends = np.cumsum([sum(part) for part in rows])
    blocks = as_blocks(np.split(entries, ends[:-1]))
    chosen = draw.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8) if len(counts) else
                       st.just([]))  # fmt: skip
    window = Window(
        bounds=np.cumsum([0, *map(len, rows)]),
        indices=np.arange(len(counts)),
        views=np.zeros_like(counts),
        positions=counts,
        starts=starts,
        over_rows={},
        over_positions={},
        large={"field": (blocks, "positions")},
    )
    made = window.gather(np.array(chosen, np.int64))["field"]
    expected = [entries[starts[row] : starts[row] + counts[row]] for row in chosen]
    assert np.array_equal(made, np.concatenate([entries[:0], *expected]))


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_rows_of_many_positions_are_gathered_where_they_lie(
    tmp_path: Path, compression: str
) -> None:
    """A second epoch, after all was read, and a batch that is kept while others come."""
    cache, samples, answers = make_text_cache(tmp_path / "cache", compression)
    stream = Stream(samples, cache, batch_size=5)
    batches = [batch for _ in range(2) for batch in stream]
    for batch in batches:
        rows = [int(name) for name in batch.ids]
        expected = np.concatenate([answers[row] for row in rows])
        assert isinstance(batch.targets, Targets)
        assert np.array_equal(batch.targets.logits.numpy(), expected.astype(np.float32))
    assert sorted(name for batch in batches for name in batch.ids) == sorted(
        2 * [str(row) for row in range(len(answers))]
    )
