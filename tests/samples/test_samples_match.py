from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.samples import IdIndex, Locator, Samples, check_samples, content_digests
from pipeline.samples.arrays import ArraySamples

COUNT = 40
INPUTS = np.arange(COUNT * 2, dtype=np.int32).reshape(COUNT, 2)
IDS = np.array([f"n{number}" for number in range(COUNT)])


def arrays(order: Sequence[int] = range(COUNT), inputs: np.ndarray = INPUTS) -> Samples:
    places = np.array(order, dtype=np.int64)
    return ArraySamples("data.train", None, inputs[places], None, IDS[places])


def kept_rows(views: int = 1, part: int = 7) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """The ids and digests that a cache of all samples would yield, part by part."""
    rows = np.repeat(np.arange(COUNT), views)
    digests = content_digests(INPUTS)
    for start in range(0, len(rows), part):
        places = rows[start : start + part]
        yield IDS[places].tolist(), digests[places]


def one_of_four(ids: Sequence[str]) -> NDArray[np.uint64]:
    return np.array([len(each) * 7 % 4 for each in ids], dtype=np.uint64)


@given(
    st.lists(st.text(max_size=4), unique=True, max_size=40),
    st.lists(st.text(max_size=4), max_size=20),
    st.booleans(),
)
def test_index_finds_every_id_and_no_other(
    own: list[str], others: list[str], collide: bool
) -> None:
    # NumPy's text arrays drop trailing NULs, so ids are kept apart from them by an end mark.
    names = [f"{each}." for each in own]
    samples = ArraySamples(
        "x", None, np.zeros((len(names), 1)), None, np.array(names or [""])[: len(names)]
    )
    index = IdIndex(samples, one_of_four) if collide else IdIndex(samples)
    asked = [*reversed(names), *(f"{each}." for each in others)]
    expected = [names.index(each) if each in names else -1 for each in asked]
    assert index.find(asked).tolist() == expected


def test_locator_follows_the_running_offset_without_an_index() -> None:
    locator = Locator(arrays())
    assert locator.locate(["n3", "n4", "n5"], 3).tolist() == [3, 4, 5]
    assert locator.index is None


def test_after_the_last_sample_comes_the_first_in_another_view() -> None:
    locator = Locator(arrays())
    assert locator.locate(["n38", "n39", "n0", "n1"], 38).tolist() == [38, 39, 0, 1]
    assert locator.index is None


@pytest.mark.parametrize("hint", [0, 39, 100, -1], ids=["wrong", "end", "beyond", "before"])
def test_locator_finds_samples_whatever_the_hint(hint: int) -> None:
    locator = Locator(arrays(range(COUNT)[::-1]))
    assert locator.locate(["n3", "n0", "n3"], hint).tolist() == [36, 39, 36]
    index = locator.index
    locator.locate(["n9"], hint)
    assert locator.index is index


def test_locator_names_what_is_missing() -> None:
    locator = Locator(arrays())
    assert locator.find(["n1", "zebra"], 1).tolist() == [1, -1]
    with pytest.raises(SampleError) as caught:
        locator.locate(["n1", "zebra", "zebra", "yak"], 1)
    assert str(caught.value) == (
        "data.train: 2 of the samples asked for are not in it: zebra, yak; "
        "cache it again or restore the data"
    )


@pytest.mark.parametrize("views", [1, 3], ids=["one view", "three views"])
@pytest.mark.parametrize(
    "order",
    [range(COUNT), range(COUNT)[::-1], np.random.default_rng(0).permutation(COUNT).tolist()],
    ids=["as it was", "reversed", "shuffled"],
)
def test_unchanged_data_passes_in_any_order(order: Sequence[int], views: int) -> None:
    seen: list[int] = []
    check_samples(arrays(order), kept_rows(views), where="caches/c", advance=seen.append)
    assert sum(seen) == COUNT * views


def test_data_with_more_samples_passes() -> None:
    first_half = list(kept_rows())[:3]
    check_samples(arrays(), iter(first_half), where="caches/c")


@pytest.mark.parametrize("threads", [1, 3])
def test_changed_and_removed_samples_are_named(threads: int) -> None:
    changed = INPUTS.copy()
    changed[[5, 30], 1] += 1
    samples = arrays([n for n in range(COUNT) if n != 7], changed)
    with pytest.raises(SampleError) as caught:
        check_samples(samples, kept_rows(), where="caches/c", threads=threads)
    assert str(caught.value) == (
        "caches/c: the samples of data.train are not those it was made from\n"
        "  changed: 2: n5, n30\n"
        "  missing: 1: n7\n"
        "  Cache it again or restore the data."
    )


def test_only_five_of_many_are_named() -> None:
    with pytest.raises(SampleError, match="changed: 40: n0, n1, n2, n3, n4 and 35 more"):
        check_samples(arrays(inputs=INPUTS + 1), kept_rows(), where="caches/c")


@pytest.mark.parametrize(
    "other", [INPUTS.astype(np.int64), INPUTS[:, None]], ids=["dtype", "shape"]
)
def test_another_dtype_or_shape_is_a_change(other: np.ndarray) -> None:
    with pytest.raises(SampleError, match="changed: 40"):
        check_samples(arrays(inputs=other), kept_rows(), where="caches/c")


def test_swapped_contents_are_a_change() -> None:
    swapped = INPUTS[[1, 0, *range(2, COUNT)]]
    with pytest.raises(SampleError, match="changed: 2: n0, n1"):
        check_samples(arrays(inputs=swapped), kept_rows(), where="caches/c")
