import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import SampleError
from pipeline.samples.arrays import ArraySamples
from pipeline.samples.batch import (
    as_indices,
    content_digests,
    ids_at,
    name_some,
    read_labels,
    stack_inputs,
)
from pipeline.samples.kinds import PythonSamples


def test_digest_is_blake2b_of_header_and_bytes() -> None:
    inputs = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = hashlib.blake2b(b"<f4(3,)" + inputs[1].tobytes(), digest_size=16).digest()
    assert content_digests(inputs)[1].tobytes() == expected


@pytest.mark.parametrize(
    "other",
    [np.zeros((1, 4), np.int8), np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2), np.uint16)],
    ids=["dtype", "shape", "both"],
)
def test_same_bytes_of_another_dtype_or_shape_digest_differently(other: np.ndarray) -> None:
    same_bytes = np.zeros((1, 4), np.uint8)
    assert other.tobytes() == same_bytes.tobytes()
    assert content_digests(other).tobytes() != content_digests(same_bytes).tobytes()


@given(hnp.arrays(st.sampled_from(["<f8", "<i4", "|u1"]), hnp.array_shapes(min_dims=1, max_dims=4)))
def test_digest_depends_neither_on_memory_order_nor_on_byte_order(inputs: np.ndarray) -> None:
    expected = content_digests(inputs)
    assert expected.shape == (len(inputs), 16)
    swapped = inputs.astype(inputs.dtype.newbyteorder(">"))
    assert np.array_equal(content_digests(np.asfortranarray(inputs)), expected)
    assert np.array_equal(content_digests(swapped), expected)


@given(st.lists(st.integers(0, 499), max_size=40))
def test_ids_at_any_indices_are_those_of_the_rows(indices: list[int]) -> None:
    names = np.array([f"n{number}" for number in range(500)])
    samples = ArraySamples("data.train", None, np.zeros((500, 1)), None, names)
    assert ids_at(samples, np.array(indices, dtype=np.int64)) == [f"n{i}" for i in indices]


def test_labels_are_read_from_datasets_that_do_not_offer_them() -> None:
    items = [{"id": str(n), "input": np.zeros(2), "label": n % 3} for n in range(600)]
    indices = np.array([599, 0, 4])
    assert read_labels(PythonSamples("data.train", None, items), indices).tolist() == [2, 0, 1]


def test_stacking_unequal_shapes_names_both() -> None:
    with pytest.raises(SampleError) as caught:
        stack_inputs("data.train", ["a", "b"], [np.zeros((2, 2)), np.zeros((2, 3))])
    assert str(caught.value) == (
        "data.train: b has shape (2, 3) float64, but a has (2, 2) float64; "
        "all samples must be alike"
    )


@pytest.mark.parametrize("indices", [[-1], [3], [0, 7]])
def test_indices_outside_the_dataset_are_a_bug(indices: list[int]) -> None:
    with pytest.raises(IndexError, match="of 3 samples"):
        as_indices(indices, 3)


@pytest.mark.parametrize(
    ("count", "text"), [(2, "a, b"), (5, "a, b, c, d, e"), (1007, "a, b, c, d, e and 1,002 more")]
)
def test_five_are_named_and_the_others_counted(count: int, text: str) -> None:
    assert name_some(list("abcdefg")[:count], count) == text
