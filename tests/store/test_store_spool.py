"""Copies of what lies far away: within their bound, right, and there after a restart."""

import hashlib
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import contract
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import CacheError, CorruptPart
from pipeline.store import Spool, open_cache
from pipeline.store.places import Folder


@dataclass(frozen=True)
class Far(Folder):
    """A folder that counts what is read of it, and answers as an object store does."""

    asked: list[str] = field(default_factory=list, compare=False)

    @property
    def parallel(self) -> int:
        return 4

    def read(self, path: str, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        self.asked.append(path)
        return super().read(path, into)


def write_files(folder: Path, sizes: list[int]) -> dict[str, str]:
    """Write files of some sizes; gives their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for number, size in enumerate(sizes):
        content = bytes([number % 251]) * size + str(number).encode()
        (folder / str(number)).write_bytes(content)
        digests[str(number)] = hashlib.sha256(content).hexdigest()
    return digests


def taken(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.iterdir() if each.name != ".lock")


def fetch(spool: Spool, far: Far, digests: dict[str, str], name: str) -> Path | None:
    size_bytes = (far.path / name).stat().st_size
    return spool.find(digests[name]) or spool.make(far, name, digests[name], size_bytes)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.randoms())
def test_copies_never_take_more_than_is_allowed(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], random: object
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    digests = write_files(folder / "far", sizes)
    spool, far = Spool(folder / "near", 60), Far(folder / "far")
    names = [*digests, *digests]
    random.shuffle(names)  # type: ignore[attr-defined]
    for name in names:
        copy = fetch(spool, far, digests, name)
        assert copy is not None
        assert copy.read_bytes() == (folder / "far" / name).read_bytes()
        assert taken(folder / "near") <= 60


def test_threads_and_spools_of_one_folder_keep_its_bound(tmp_path: Path) -> None:
    digests = write_files(tmp_path / "far", [1000] * 40)
    far, most, done = Far(tmp_path / "far"), list[int](), threading.Event()
    spools = [Spool(tmp_path / "near", 12_000) for _ in range(3)]

    def work(number: int) -> None:
        for name in list(digests)[number::2] * 3:
            fetch(spools[number], far, digests, name)

    def watch() -> None:
        while not done.is_set():
            if (tmp_path / "near").is_dir():
                # Under the lock, for two looks at different moments could count a copy and the one
                # that it made room for.
                with spools[0].locked(), suppress(FileNotFoundError):
                    most.append(taken(tmp_path / "near"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    watcher = threading.Thread(target=watch)
    watcher.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert max(most) <= 12_000
    assert taken(tmp_path / "near") > 9_000


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    digests = write_files(tmp_path / "far", [10] * 4)
    spool, far = Spool(tmp_path / "near", 35), Far(tmp_path / "far")
    for name in ("0", "1", "2", "0", "3"):
        fetch(spool, far, digests, name)
        time.sleep(0.01)
    assert {each.name for each in (tmp_path / "near").iterdir()} == {
        ".lock",
        *(digests[name] for name in ("0", "2", "3")),
    }


def test_copies_are_there_after_a_restart(tmp_path: Path) -> None:
    contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    first, second = Far(tmp_path / "cache"), Far(tmp_path / "cache")
    there = open_cache(first, Spool(tmp_path / "near", 10**6))
    arrays = there.read_part(1)
    again = open_cache(second, Spool(tmp_path / "near", 10**6))
    for name, array in again.read_part(1).items():
        assert array.tobytes() == arrays[name].tobytes()
    assert not [path for path in second.asked if path.startswith("targets")]
    assert [path for path in first.asked if path.startswith("targets")]


def test_parts_are_fetched_before_they_are_read(tmp_path: Path) -> None:
    contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    far = Far(tmp_path / "cache")
    cache = open_cache(far, Spool(tmp_path / "near", 10**6))
    cache.fetch_part(1, ["logits"])
    assert not any("classes" in path or "entropy" in path for path in far.asked)
    before = len(far.asked)
    cache.read_part(1, ["logits"])
    cache.read_samples(1)
    assert len(far.asked) == before


def test_fetching_proves_the_copies_that_are_there(tmp_path: Path) -> None:
    contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    cache = open_cache(Far(tmp_path / "cache"), Spool(tmp_path / "near", 10**6))
    arrays = {name: array.tobytes() for name, array in cache.read_part(0).items()}
    for copy in (tmp_path / "near").iterdir():
        if copy.name != ".lock":
            copy.write_bytes(b"\0" * copy.stat().st_size)
    cache.fetch_part(0, ["logits", "classes"])
    found = cache.read_part(0, ["logits", "classes"], check=False)
    assert {name: array.tobytes() for name, array in found.items()}.items() <= arrays.items()


def test_what_the_spool_cannot_hold_is_proved_by_whoever_reads_it(tmp_path: Path) -> None:
    contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    cache = open_cache(Far(tmp_path / "cache"), Spool(tmp_path / "near", 1))
    (chunk,) = (tmp_path / "cache").glob("targets/*0.zarr/logits/c*0")
    chunk.write_bytes(b"\0" * chunk.stat().st_size)
    with pytest.raises(CorruptPart, match="checksum"):
        cache.read_part(0, ["logits"], check=False)


def test_a_damaged_copy_is_made_anew(tmp_path: Path) -> None:
    contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    cache = open_cache(Far(tmp_path / "cache"), Spool(tmp_path / "near", 10**6))
    arrays = {name: array.tobytes() for name, array in cache.read_part(0).items()}
    for copy in (tmp_path / "near").iterdir():
        if copy.name != ".lock":
            copy.write_bytes(b"\0" * copy.stat().st_size)
    assert {name: array.tobytes() for name, array in cache.read_part(0).items()} == arrays
    assert {name: array.tobytes() for name, array in cache.read_part(0).items()} == arrays


def test_damage_far_away_is_told_and_not_copied(tmp_path: Path) -> None:
    contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    victim = tmp_path / "cache/targets/00000.zarr/logits/c.0.0"
    victim.write_bytes(b"\0" * victim.stat().st_size)
    cache = open_cache(Far(tmp_path / "cache"), Spool(tmp_path / "near", 10**6))
    for _ in range(2):
        with pytest.raises(CorruptPart, match=r"part 0: .*logits.*its checksum differs"):
            cache.read_part(0)


def test_a_file_larger_than_the_spool_is_read_where_it_is(tmp_path: Path) -> None:
    contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    cache = open_cache(Far(tmp_path / "cache"), Spool(tmp_path / "near", 20))
    assert sorted(cache.read_part(0)) == ["classes", "embedding", "entropy", "logits"]
    assert not (tmp_path / "near").exists() or taken(tmp_path / "near") <= 20


def test_what_finds_no_room_beside_copies_in_the_making_is_read_where_it_is(
    tmp_path: Path,
) -> None:
    contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    expected = open_cache(tmp_path / "cache").read_part(0)
    cache = open_cache(Far(tmp_path / "cache"), Spool(tmp_path / "near", 10_000))
    (tmp_path / "near").mkdir()
    (tmp_path / "near/abc.1-1.partial").write_bytes(b"x" * 9_990)
    cache.fetch_part(0, ["logits"])
    for name, array in cache.read_part(0, check=False).items():
        assert array.tobytes() == expected[name].tobytes()
    assert taken(tmp_path / "near") <= 10_000
    (chunk,) = (tmp_path / "cache").glob("targets/*0.zarr/logits/c*0")
    chunk.write_bytes(b"\0" * chunk.stat().st_size)
    with pytest.raises(CorruptPart, match="checksum"):
        cache.read_part(0, ["logits"], check=False)


def test_a_folder_nearby_needs_no_copies(tmp_path: Path) -> None:
    contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    cache = open_cache(tmp_path / "cache", Spool(tmp_path / "near", 10**6))
    cache.read_part(0)
    assert cache.spool is None
    assert not (tmp_path / "near").exists()


def test_a_disk_that_refuses_copies_is_told(tmp_path: Path) -> None:
    contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    (tmp_path / "file").touch()
    cache = open_cache(Far(tmp_path / "cache"), Spool(tmp_path / "file/near", 10**6))
    with pytest.raises(CacheError, match="file/near: cannot write"):
        cache.read_part(0)


def test_what_a_dead_process_began_makes_room_in_time(tmp_path: Path) -> None:
    digests = write_files(tmp_path / "far", [30, 10])
    spool, far = Spool(tmp_path / "near", 40), Far(tmp_path / "far")
    fetch(spool, far, digests, "1")
    left = tmp_path / "near/abc.1-1.partial"
    left.write_bytes(b"x" * 20)
    assert fetch(spool, far, digests, "0") is None
    assert spool.find(digests["1"])  # not removed for nothing
    os.utime(left, (0, 0))
    assert fetch(replace(spool), far, digests, "0") is not None
    assert not left.exists()
