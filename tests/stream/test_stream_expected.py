"""Parts that are read soon are told to the disk first, once each, and nothing depends on it."""

import errno
import os
import pickle
from dataclasses import replace
from itertools import chain, islice, pairwise
from pathlib import Path

import pytest
from tiny import make_cache, make_samples

from pipeline.errors import CorruptPart
from pipeline.store import Cache, Spool, open_cache
from pipeline.store.places import Folder
from pipeline.store.places.disk import expect_files
from pipeline.stream import Stream
from pipeline.stream.windows import expected
from pipeline.stream.windows.expected import Expected

ROWS, NAMES = 40, ("classes", "logits")


def make_parts(folder: Path) -> Cache:
    return make_cache(folder, make_samples(ROWS), rows_per_part=4)


def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Note, from now on, what folders are told and asked of targets, in order."""
    seen = list[tuple[str, str]]()

    def note(verb: str) -> None:
        real = getattr(Folder, verb)

        def noted(self: Folder, what: str | dict[str, int], *rest: object) -> object:
            paths = [what] if isinstance(what, str) else what
            seen.extend((verb, path) for path in paths if ".zarr/" in path)
            return real(self, what, *rest)

        monkeypatch.setattr(Folder, verb, noted)

    for verb in ("expect", "read", "map"):
        note(verb)
    return seen


def test_so_many_parts_are_told_ahead_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, told = make_parts(tmp_path / "cache"), list[int]()
    monkeypatch.setattr(Cache, "expect_part", lambda self, part, names: told.append(part))
    parts = [9, 1, 8, 2, 7, 3, 6, 4]
    coming = Expected(cache, NAMES, iter(parts))
    for number in range(len(parts)):
        coming.tell()
        assert told == parts[: number + 1 + expected.AHEAD]


@pytest.mark.parametrize("large_bytes", [1, 10_000], ids=["mapped", "copied"])
def test_every_file_is_told_before_it_is_read_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int
) -> None:
    monkeypatch.setattr("pipeline.stream.windows.large.LARGE_BYTES", large_bytes)
    monkeypatch.setattr("pipeline.stream.windows.large.MOST_CORES", 1)  # several may overtake
    cache = make_parts(tmp_path / "cache")
    seen = record(monkeypatch)
    list(Stream(make_samples(ROWS), cache, batch_size=8))
    read = [path for verb, path in seen if verb != "expect"]
    # Three fields, a document for each and one for all.
    assert len(read) == 7 * cache.plan.part_count
    assert {path for verb, path in seen if verb == "expect"} == set(read)
    assert all(seen.index(("expect", path)) <= seen.index((verb, path)) for verb, path in seen)


def test_what_is_missing_is_told_by_who_reads_it(tmp_path: Path) -> None:
    cache = make_parts(tmp_path / "cache")
    next((tmp_path / "cache/targets/00003.zarr/logits").glob("c.*")).unlink()
    next((tmp_path / "cache").rglob("*00002*.json")).unlink()
    for part in (2, 3):
        open_cache(tmp_path / "cache").expect_part(part, NAMES)
    with pytest.raises(CorruptPart, match=r"part 3: .*is missing"):
        cache.read_part(3, NAMES)
    with pytest.raises(CorruptPart, match="part 2"):
        cache.read_part(2, NAMES)


def test_a_system_that_cannot_be_told_reads_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    cache = make_parts(tmp_path / "cache")
    rows = sum(len(batch.ids) for batch in Stream(make_samples(ROWS), cache, batch_size=8))
    assert rows == ROWS


def test_what_is_fetched_to_a_spool_is_not_told_of_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_parts(tmp_path / "cache")
    near = Spool(tmp_path / "spool", 10**6)
    cache = replace(open_cache(tmp_path / "cache"), spool=near)
    seen = record(monkeypatch)
    cache.expect_part(0, NAMES)
    assert seen == []


@pytest.mark.parametrize("seed", [0, None], ids=["shuffled", "as they lie"])
def test_the_next_window_is_told_while_batches_of_this_one_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    """Two windows an epoch, of five parts each, in two epochs; each batch is half a part."""
    monkeypatch.setattr("pipeline.stream.ahead.MOST_AT_ONCE", 1)
    cache, told = make_parts(tmp_path / "cache"), list[int]()
    stream = Stream(make_samples(ROWS), cache, batch_size=2, window_parts=5, seed=seed)
    windows = [set(each.tolist()) for epoch in range(3) for each in stream.order.windows(epoch)]
    batches = stream.forever()
    for here, later in pairwise(windows[:5]):
        next(batches)  # which reads the window, and tells of its own parts
        with monkeypatch.context() as patch:
            patch.setattr(Cache, "expect_part", lambda self, part, names: told.append(part))
            for _ in range(9):
                next(batches)
        assert sorted(told) == sorted(later - here)
        told.clear()


def test_a_cache_that_is_one_window_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, told = make_parts(tmp_path / "cache"), list[int]()
    stream = Stream(make_samples(ROWS), cache, batch_size=2, window_parts=10)
    monkeypatch.setattr(Cache, "expect_part", lambda self, part, names: told.append(part))
    assert len([batch for _ in range(3) for batch in stream]) == 60
    assert sorted(told) == list(range(10))


def test_a_stream_that_was_followed_goes_to_another_process(tmp_path: Path) -> None:
    cache = make_parts(tmp_path / "cache")
    stream = Stream(make_samples(ROWS), cache, batch_size=2, window_parts=5)
    first = [batch.ids for batch in islice(stream.forever(), 3)]
    copy = pickle.loads(pickle.dumps(stream))
    rest = [batch.ids for batch in copy]
    assert sorted(chain(*first, *rest)) == sorted(make_samples(ROWS).ids(0, ROWS))


def test_a_part_is_told_whole_but_for_what_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, told = make_parts(tmp_path / "cache"), dict[str, int]()
    monkeypatch.setattr(Folder, "expect", lambda self, sizes: told.update(sizes))
    cache.expect_part(0, NAMES)
    fields = {f"{name}/{file}" for name in NAMES for file in ("c.0.0", "zarr.json")}
    tables = {path for path in told if ".zarr/" not in path}
    assert tables
    assert {*told} - tables == {f"targets/00000.zarr/{each}" for each in {*fields, "zarr.json"}}
    assert all((tmp_path / "cache" / path).stat().st_size == size for path, size in told.items())


@pytest.mark.parametrize(
    ("there", "problem", "times"),
    [
        ([0, 50, 75], BlockingIOError(errno.EAGAIN, "wait"), 0),
        ([0, 50], BlockingIOError(errno.EAGAIN, "wait"), 1),
        ([50, 75], BlockingIOError(errno.EAGAIN, "wait"), 1),
        ([], OSError(errno.EOPNOTSUPP, "no"), 1),
    ],
    ids=["in memory", "in parts", "but for the beginning", "nobody can tell"],
)
def test_what_is_in_memory_is_not_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: list[int],
    problem: OSError,
    times: int,
) -> None:
    def look(file: int, into: list[bytearray], start: int, flags: int) -> int:
        assert (len(into[0]), flags) == (1, os.RWF_NOWAIT)
        if start not in there:
            raise problem
        return 1

    place, asked = tmp_path / "file", list[int]()
    place.write_bytes(bytes(100))
    monkeypatch.setattr(os, "preadv", look)
    monkeypatch.setattr(os, "posix_fadvise", lambda *words: asked.append(words[-1]))
    expect_files({str(place): 100})
    assert asked == times * [os.POSIX_FADV_WILLNEED]


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ([], [3, 5, 40, 100]),
        ([3, 40], [5, 100]),
        ([100], []),  # as the largest is there, so are others
    ],
)
def test_the_smallest_is_asked_for_first_for_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[int], told: list[int]
) -> None:
    def size_of(file: int) -> int:
        return os.fstat(file).st_size

    def look(file: int, into: list[bytearray], start: int, flags: int) -> int:
        if size_of(file) not in there:
            raise BlockingIOError(errno.EAGAIN, "wait")
        return 1

    sizes, asked = {str(tmp_path / f"{size}"): size for size in (40, 3, 100, 5)}, list[int]()
    for path, size in sizes.items():
        Path(path).write_bytes(bytes(size))
    monkeypatch.setattr(os, "preadv", look)
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *_: asked.append(size_of(file)))
    expect_files(sizes)
    assert asked == told


def test_what_is_not_there_keeps_nobody_from_asking_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "wait")

    asked = list[int]()
    (tmp_path / "here").write_bytes(b"here")
    monkeypatch.setattr(os, "preadv", look)
    monkeypatch.setattr(os, "posix_fadvise", lambda *words: asked.append(words[-1]))
    expect_files({str(tmp_path / "gone"): 100, str(tmp_path / "here"): 4})
    expect_files({})
    assert asked == [os.POSIX_FADV_WILLNEED]
