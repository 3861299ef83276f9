import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CLASSES, make_cache, make_logits, make_samples, make_spec
from torch.utils.data import DataLoader

import pipeline.stream.stream
from pipeline.errors import CorruptPart, PipelineError, SampleError
from pipeline.samples import Samples
from pipeline.samples.arrays import ArraySamples
from pipeline.store import Cache
from pipeline.stream import Batch, Stream
from pipeline.targets import Mixture, Targets, decode, encode

ROWS = 23


@pytest.fixture(scope="module")
def samples() -> Samples:
    return make_samples(ROWS)


@pytest.fixture(scope="module")
def cache(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """23 rows in 6 parts, 2 of 5 classes kept."""
    return make_cache(tmp_path_factory.mktemp("stream") / "cache", samples, rows_per_part=4)


def numbers(batch: Batch) -> list[int]:
    return [int(sample_id.removeprefix("s")) for sample_id in batch.ids]


def taught(rows: list[int], k: int = 2) -> Targets:
    """Decode what was encoded of these rows, in one step and without a file."""
    spec = make_spec(k)
    return decode(spec, encode(spec, make_logits(ROWS)[torch.tensor(rows)]))


def assert_same(one: Targets | Mixture | None, other: Targets) -> None:
    assert isinstance(one, Targets)
    assert torch.equal(one.logits, other.logits)
    for mine, theirs in ((one.classes, other.classes), (one.tail, other.tail)):
        assert (mine is None) == (theirs is None)
        assert mine is None or theirs is None or torch.equal(mine, theirs)


def ids_of(batches: Iterator[Batch]) -> list[list[str]]:
    return [batch.ids for batch in batches]


@pytest.fixture(
    scope="module",
    params=[("zarr", 2), ("zarr", CLASSES), ("parquet", 2), ("parquet", CLASSES)],
    ids=lambda kind: f"{kind[0]}-{kind[1]}",
)
def any_cache(
    request: pytest.FixtureRequest, samples: Samples, tmp_path_factory: pytest.TempPathFactory
) -> Cache:
    """The same rows, in either backend, with some or all classes kept."""
    backend, k = request.param
    folder = tmp_path_factory.mktemp("any") / "cache"
    return make_cache(folder, samples, rows_per_part=4, k=k, backend=backend)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_every_id_comes_with_its_own_input_label_and_targets(
    batch_size: int, samples: Samples, any_cache: Cache
) -> None:
    stream = Stream(samples, any_cache, batch_size=batch_size, window_parts=2)
    k = any_cache.plan.fields[0].shape[0]
    seen = []
    for batch in stream:
        rows = numbers(batch)
        seen += rows
        assert batch.inputs[:, 0].tolist() == rows
        assert isinstance(batch.labels, torch.Tensor)
        assert batch.labels.tolist() == [row % CLASSES for row in rows]
        assert_same(batch.targets, taught(rows, k))
    assert sorted(seen) == list(range(ROWS))
    assert seen != sorted(seen)


def test_reordered_data_is_harmless(cache: Cache) -> None:
    order = np.random.default_rng(3).permutation(ROWS)
    stream = Stream(make_samples(ROWS, order), cache, batch_size=5, window_parts=2)
    same_order = Stream(make_samples(ROWS), cache, batch_size=5, window_parts=2)
    for batch, expected in zip(stream, same_order, strict=True):
        assert batch.ids == expected.ids
        assert torch.equal(batch.inputs, expected.inputs)
        assert_same(batch.targets, taught(numbers(batch)))


def test_data_that_changed_is_refused_before_the_first_batch(cache: Cache) -> None:
    changed = make_samples(ROWS)
    inputs = np.array(changed.inputs[np.arange(ROWS)])
    inputs[7] += 1
    samples = ArraySamples("data.train", None, inputs, changed.label_rows, changed.id_rows)
    with pytest.raises(SampleError) as refused:
        Stream(samples, cache, batch_size=5)
    assert str(refused.value) == (
        f"{cache.path}: the samples of data.train are not those it was made from\n"
        "  changed: 1: s7\n"
        "  Cache it again or restore the data."
    )
    assert len(list(Stream(samples, cache, batch_size=5, check=False))) == 5


@pytest.mark.parametrize("window_parts", [1, 2, 6, 50])
def test_windows_smaller_and_larger_than_the_cache_see_every_row(
    window_parts: int, samples: Samples, cache: Cache
) -> None:
    stream = Stream(samples, cache, batch_size=7, window_parts=window_parts)
    assert len(stream) == 4
    assert sorted(row for batch in stream for row in numbers(batch)) == list(range(ROWS))


def test_each_iteration_is_the_next_epoch(samples: Samples, cache: Cache) -> None:
    stream = Stream(samples, cache, batch_size=5)
    first, second = ids_of(iter(stream)), ids_of(iter(stream))
    assert first != second
    stream.set_epoch(0)
    assert ids_of(iter(stream)) == first
    assert (stream.epoch, stream.batch) == (1, 0)


@pytest.mark.parametrize("taken", [0, 1, 3, 5, 7])
def test_a_restored_stream_gives_the_very_next_batch(
    taken: int, samples: Samples, cache: Cache
) -> None:
    whole = Stream(samples, cache, batch_size=5, window_parts=2)
    expected = ids_of(iter(whole)) + ids_of(iter(whole))

    stopped = Stream(samples, cache, batch_size=5, window_parts=2)
    seen = ids_of(islice(stopped.forever(), taken))
    restored = Stream(samples, cache, batch_size=5, window_parts=2)
    restored.load_state_dict(stopped.state_dict())
    rest = ids_of(islice(restored.forever(), len(expected) - taken))
    assert seen + rest == expected
    assert (restored.epoch, restored.batch) == (2, 0)


def test_a_place_counted_in_other_batches_is_refused(samples: Samples, cache: Cache) -> None:
    state = Stream(samples, cache, batch_size=5).state_dict()
    with pytest.raises(PipelineError) as refused:
        Stream(samples, cache, batch_size=6).load_state_dict(state)
    assert str(refused.value) == (
        "stream: the saved place counts batches of 5, this stream makes batches of 6. "
        "Make the stream with the saved batch_size."
    )


def test_leaving_an_epoch_early_goes_on_from_there(samples: Samples, cache: Cache) -> None:
    stream = Stream(samples, cache, batch_size=5)
    expected = ids_of(iter(stream))
    stream.set_epoch(0)
    seen = ids_of(islice(iter(stream), 2))
    assert (stream.epoch, stream.batch) == (0, 2)
    assert seen + ids_of(iter(stream)) == expected


def test_a_baseline_without_a_cache_sees_the_order_of_a_student_with_one(
    samples: Samples, tmp_path: Path
) -> None:
    size = pipeline.stream.stream.ROWS_PER_PART
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=size)
    baseline, student = (Stream(samples, each, batch_size=5, seed=4) for each in (None, cache))
    assert baseline.order == student.order
    for plain, soft in zip(baseline, student, strict=True):
        assert plain.ids == soft.ids
        assert torch.equal(plain.inputs, soft.inputs)
        assert plain.targets is None
        assert soft.targets is not None


def test_rows_come_as_they_lie_without_a_seed(samples: Samples, cache: Cache) -> None:
    stream = Stream(samples, cache, batch_size=5, seed=None, window_parts=2)
    assert [row for batch in stream for row in numbers(batch)] == list(range(ROWS))


# torch would rather not have two workers on a machine of one core.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loader_workers_give_the_same_batches_in_the_same_order(
    samples: Samples, cache: Cache
) -> None:
    stream = Stream(samples, cache, batch_size=5, window_parts=2)
    expected = [ids_of(iter(stream)), ids_of(iter(stream))]
    stream.set_epoch(0)
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="forkserver",
    )
    epochs = [list(loader), list(loader)]
    assert [ids_of(iter(batches)) for batches in epochs] == expected
    for batch in epochs[1]:
        assert_same(batch.targets, taught(numbers(batch)))


def test_a_loader_without_workers_is_the_stream(samples: Samples, cache: Cache) -> None:
    stream = Stream(samples, cache, batch_size=5)
    expected = ids_of(iter(stream))
    stream.set_epoch(0)
    assert ids_of(iter(DataLoader(stream, batch_size=None))) == expected


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("workers", [1, 2, 3, 9])
def test_workers_share_out_the_batches_whatever_their_number(
    workers: int, first: int, samples: Samples, cache: Cache
) -> None:
    stream = Stream(samples, cache, batch_size=5, window_parts=2)
    shares = [list(stream._batches(0, first, (worker, workers))) for worker in range(workers)]
    for worker, share in enumerate(shares):
        assert [number for _, number, _ in share] == list(range(first + worker, 5, workers))
    shared = sorted((number, batch.ids) for share in shares for _, number, batch in share)
    assert [ids for _, ids in shared] == ids_of(iter(stream))[first:]


def test_nothing_is_not_waited_for_for_ever() -> None:
    nothing = ArraySamples("data.train", None, np.empty((0, 2), np.float32), None, None)
    stream = Stream(nothing, batch_size=4)
    assert (len(stream), list(stream)) == (0, [])
    with pytest.raises(PipelineError, match=r"data\.train: holds no sample"):
        next(stream.forever())


def test_a_damaged_part_is_refused_when_it_is_read(samples: Samples, tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=4, backend="parquet")
    path = tmp_path / "cache/targets/00002.parquet"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    stream = Stream(samples, cache, batch_size=4, window_parts=1, seed=None)
    seen: list[Batch] = []
    with pytest.raises(CorruptPart) as refused:
        seen.extend(stream)
    assert str(refused.value) == (
        f"{cache.path}: part 2: targets/00002.parquet: its checksum differs: a byte was changed"
    )
    assert ids_of(iter(seen)) == [
        [f"s{row}" for row in range(start, start + 4)] for start in (0, 4)
    ]


def test_only_one_window_is_held(samples: Samples, cache: Cache) -> None:
    stream = Stream(samples, cache, batch_size=3, window_parts=1)
    alive: list[weakref.ref[object]] = []
    read = stream._loader._read

    def watched(parts: tuple[int, ...]) -> object:
        assert [reference for reference in alive if reference() is not None] == []
        window = read(parts)
        alive.append(weakref.ref(window))
        return window

    stream._loader._read = watched  # type: ignore[method-assign,assignment]  # to look, not to replace
    assert sorted(row for batch in stream for row in numbers(batch)) == list(range(ROWS))
    assert len(alive) == 6


def test_what_a_stream_holds_goes_with_it_and_waits_for_no_collector(
    samples: Samples, cache: Cache
) -> None:
    gc.disable()  # files that were mapped would stay mapped until it comes
    try:
        stream = Stream(samples, cache, batch_size=3)
        list(stream)
        gone = weakref.ref(stream)
        del stream
        assert gone() is None
    finally:
        gc.enable()


def test_a_window_that_is_the_whole_cache_is_read_once(samples: Samples, cache: Cache) -> None:
    stream = Stream(samples, cache, batch_size=3, window_parts=6)
    list(stream)
    first = stream._loader.held
    list(stream)
    assert stream._loader.held is first


def test_memory_follows_the_window_and_not_the_cache(tmp_path: Path) -> None:
    peaks = []
    for rows in (16_000, 48_000):  # of both, as many batches as ever are prepared at once
        samples = make_samples(rows)
        cache = make_cache(tmp_path / str(rows), samples, rows_per_part=2_000)
        stream = Stream(samples, cache, batch_size=100, window_parts=1, check=False)
        tracemalloc.start()
        for _ in stream:
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
