"""Maps that are put side by side: the same rows, from one array."""

import gc
import mmap
import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_stream_large import make_text_cache
from torch import Tensor

from pipeline.stream import Batch, Stream
from pipeline.stream.stored import Stored
from pipeline.stream.windows import adjacent, large
from pipeline.stream.windows.adjacent import side_by_side
from pipeline.stream.windows.large import Blocks, gather

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="others do not map again")
PAGE = mmap.PAGESIZE
# Of four bytes.
PAGE_ENTRIES = PAGE // 8


def mapped(path: Path, entries: int, *, first: int = 0, dtype: Any = np.float32) -> NDArray[Any]:
    """Write entries of two numbers each, and map them as a cache does."""
    np.arange(first, first + 2 * entries).astype(dtype).tofile(path)
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(content, dtype).reshape(-1, 2)


def three(folder: Path, last: int = 5) -> list[NDArray[Any]]:
    sizes = [2 * PAGE_ENTRIES, 2 * PAGE_ENTRIES, last]
    return [mapped(folder / str(each), size, first=each) for each, size in enumerate(sizes)]


def maps_in(folder: Path) -> int:
    """Count this process's maps of files of a folder."""
    gc.collect()
    return Path("/proc/self/maps").read_text(encoding="utf-8").count(str(folder))


@pytest.mark.parametrize("last", [1, 5, PAGE_ENTRIES, 2 * PAGE_ENTRIES])
def test_they_are_one_array(tmp_path: Path, last: int) -> None:
    arrays = three(tmp_path, last)
    found = side_by_side(arrays)
    assert found is not None
    assert not found.flags.writeable
    assert np.array_equal(found, np.concatenate(arrays))


def test_it_outlives_what_it_is_made_of_and_then_lets_go(tmp_path: Path) -> None:
    arrays = three(tmp_path)
    expected, found = np.concatenate(arrays), side_by_side(arrays)
    arrays.clear()
    for path in list(tmp_path.iterdir()):
        path.unlink()
    assert found is not None
    part = found[PAGE_ENTRIES:]
    del found
    assert maps_in(tmp_path) == 3
    assert np.array_equal(part, expected[PAGE_ENTRIES:])
    del part
    assert maps_in(tmp_path) == 0


def resident_mib() -> float:
    """How much of mapped files counts as this process's memory."""
    (line,) = re.findall(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    return int(line) / 1024


def test_its_pages_do_not_count_twice(tmp_path: Path) -> None:
    entries = 8 * 2**20 // 8
    arrays = [mapped(tmp_path / str(each), entries, first=each) for each in range(4)]
    before = resident_mib()
    sums = [float(each.sum()) for each in arrays]
    assert resident_mib() > before + 30
    found = side_by_side(arrays)
    assert found is not None
    assert float(found.sum()) == pytest.approx(sum(sums))
    assert resident_mib() < before + 34
    assert float(arrays[1].sum()) == sums[1]


def others(folder: Path) -> dict[str, list[NDArray[Any]]]:
    """What cannot be put side by side, by why."""
    fitting = three(folder)
    lone = mapped(folder / "lone", 2 * PAGE_ENTRIES)
    return {
        "one alone": fitting[:1],
        "no whole pages": [mapped(folder / "short", 9), mapped(folder / "other", 9)],
        "the last is longer": [*fitting[:2], mapped(folder / "long", 3 * PAGE_ENTRIES)],
        "one is shorter": [fitting[0], fitting[2], fitting[1]],
        "another dtype": [*fitting, mapped(folder / "int", 5, dtype=np.int32)],
        "other entries": [*fitting, lone.reshape(-1, 4)],
        "a part of a file": [lone[PAGE_ENTRIES + 1 :], lone[PAGE_ENTRIES + 1 :]],
        "not of a file": [*fitting[:2], fitting[2].copy()],
        "every second": [fitting[0][::2], fitting[1][::2]],
    }


def test_what_does_not_fit_is_left_alone(tmp_path: Path) -> None:
    for why, arrays in others(tmp_path).items():
        assert side_by_side(arrays) is None, why


def test_a_system_that_refuses_is_not_asked_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, asked = three(tmp_path), list[int]()
    expected, original = np.concatenate(arrays), adjacent._map_again

    def refuse(array: NDArray[Any], place: int) -> bool:
        asked.append(place)
        return len(asked) < 2 and original(array, place)

    monkeypatch.setattr(adjacent, "_map_again", refuse)
    monkeypatch.setattr(adjacent, "_LEFT", [])
    assert side_by_side(arrays) is None
    assert len(asked) == 2
    assert len(adjacent._LEFT) == 1  # what lies in its gap is not ours to give back
    assert np.array_equal(np.concatenate(arrays), expected)


LIMITED = """
import gc, mmap, re, resource, sys
from pathlib import Path
import numpy as np
from pipeline.stream.windows import adjacent

arrays, size = [], 2**25
for number in range(3):
    path = Path(sys.argv[1]) / str(number)
    path.write_bytes(bytes([number + 1]) * size)
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays.append(np.frombuffer(content, np.uint8))
adjacent._mremap()
used = int(re.findall(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
limit = used + int(float(sys.argv[2]) * size)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = adjacent.side_by_side(arrays)
print(found is not None, len(adjacent._LEFT), [int(each[-1]) for each in arrays])
"""


@pytest.mark.parametrize(("room", "left"), [(0.5, 0), (3.5, 1)], ids=["no room", "no maps there"])
def test_a_limit_on_addresses_is_no_failure(tmp_path: Path, room: float, left: int) -> None:
    """As `ulimit -v` sets one; of three files room for so many."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(room)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.stdout.split(maxsplit=2)[:2], ended.stderr) == (["False", str(left)], "")
    assert ended.stdout.endswith("[1, 2, 3]\n")


def test_other_systems_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = three(tmp_path)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(adjacent, "_map_again", None)
    assert side_by_side(arrays) is None


@pytest.mark.parametrize("stay", [True, False])
def test_parts_are_put_side_by_side_once_all_were_copied(tmp_path: Path, stay: bool) -> None:
    arrays = three(tmp_path)
    blocks = Blocks(np.cumsum([len(each) for each in arrays]), arrays.__getitem__, stay=stay)
    everything = np.concatenate(arrays)
    random = np.random.default_rng(0)
    for epoch in range(3):
        for _ in range(4):
            at = random.integers(0, len(everything), len(everything) // 4 + 1)
            assert np.array_equal(gather(blocks, at), everything[at])
        assert ("_side_by_side" in vars(blocks)) == (stay and epoch > 0)


def test_parts_that_nobody_asked_for_are_not_put_anywhere(tmp_path: Path) -> None:
    arrays = three(tmp_path)
    blocks = Blocks(np.cumsum([len(each) for each in arrays]), arrays.__getitem__, stay=True)
    at = np.arange(len(arrays[0]))
    for _ in range(9):
        assert np.array_equal(gather(blocks, at), arrays[0])
    assert "_side_by_side" not in vars(blocks)


def fields_of(batch: Batch) -> Mapping[str, Tensor]:
    assert isinstance(batch.stored, Stored)
    return batch.stored.fields


@pytest.mark.parametrize("positions", [256, None], ids=["even", "uneven"])
@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("window_parts", [None, 2])
def test_batches_are_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compression: str,
    positions: int | None,
    window_parts: int | None,
) -> None:
    cache, samples, _ = make_text_cache(tmp_path / "cache", compression, positions)
    made = list[bool]()

    def watched(arrays: Any) -> Any:
        found = side_by_side(arrays)
        made.append(found is not None)
        return found

    def epochs() -> list[list[Mapping[str, Tensor]]]:
        stream = Stream(samples, cache, batch_size=5, window_parts=window_parts)
        return [[fields_of(batch) for batch in stream] for _ in range(4)]

    monkeypatch.setattr(large, "side_by_side", watched)
    found = epochs()
    monkeypatch.setattr(large, "side_by_side", lambda arrays: None)
    for one, other in zip(chain(*found), chain(*epochs()), strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    is_possible = (compression, positions, window_parts) == ("none", 256, None)
    assert any(made) == is_possible


def test_a_stream_that_goes_leaves_no_map(tmp_path: Path) -> None:
    cache, samples, _ = make_text_cache(tmp_path / "cache", "none", 256)
    stream = Stream(samples, cache, batch_size=5)
    for _ in range(4):
        for batch in stream:
            assert batch.stored is not None
    assert maps_in(tmp_path) > 0
    del stream, batch
    assert maps_in(tmp_path) == 0
