import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SampleError
from pipeline.samples import open_samples
from pipeline.samples.arrays import ArraySamples
from pipeline.samples.tables.rows import FileRows

INPUTS = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)
LABELS = np.array([3, -1, 0, 1, 2], dtype=np.int16)
IDS = np.array(["a", "b", "ç", "d", "e"])


def idx_bytes(array: np.ndarray, code: int = 8) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", INPUTS)
    np.save(tmp_path / "y.npy", LABELS)
    np.save(tmp_path / "ids.npy", IDS)
    np.savez(tmp_path / "all.npz", x=INPUTS, y=LABELS, ids=IDS)
    np.savez_compressed(tmp_path / "small.npz", x=INPUTS, y=LABELS, ids=IDS)
    return tmp_path


@pytest.mark.parametrize(
    "places",
    [
        {"inputs": "x.npy", "labels": "y.npy", "ids": "ids.npy"},
        {"path": "all.npz", "inputs": "x", "labels": "y", "ids": "ids"},
        {"path": "small.npz", "inputs": "x", "labels": "y", "ids": "ids"},
    ],
    ids=["npy", "npz", "compressed npz"],
)
def test_arrays_are_read_by_row(base: Path, places: dict[str, str]) -> None:
    samples = open_samples("arrays", base=base, name="data.train", **places)
    batch = samples.read([4, 0, 1, 1])
    assert len(samples) == 5
    assert samples.ids(1, 3) == ["b", "ç"]
    assert batch.ids == ["e", "a", "b", "b"]
    assert np.array_equal(batch.inputs, INPUTS[[4, 0, 1, 1]])
    assert batch.labels.tolist() == [2, 3, -1, -1]
    assert batch.labels.dtype == np.int64


def test_without_ids_and_labels_rows_are_numbered_and_unlabelled(base: Path) -> None:
    samples = open_samples("arrays", base=base, name="x", inputs="x.npy")
    assert samples.ids(3, 9) == ["3", "4"]
    assert samples.read([2]).labels.tolist() == [-1]


def test_big_endian_arrays_come_out_native(tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", INPUTS.astype(">f4"))
    batch = open_samples("arrays", base=tmp_path, name="x", inputs="big.npy").read([1, 2])
    assert batch.inputs.dtype.isnative
    assert np.array_equal(batch.inputs, INPUTS[1:3])


def test_datasets_travel_to_other_processes(base: Path) -> None:
    samples = open_samples("arrays", base=base, name="x", inputs="x.npy")
    assert np.array_equal(pickle.loads(pickle.dumps(samples)).read([3]).inputs, INPUTS[3:4])


@given(st.lists(st.integers(0, 19), max_size=30))
def test_file_rows_equal_the_array(tmp_path_factory: Any, indices: list[int]) -> None:
    array = np.arange(20 * 3, dtype=np.int32).reshape(20, 3)
    path = tmp_path_factory.getbasetemp() / "rows.bin"
    path.write_bytes(b"head" + array.tobytes())
    rows = FileRows(path, 4, array.shape, array.dtype)
    assert np.array_equal(rows[np.array(indices, dtype=np.int64)], array[indices])


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_idx_images_come_out_with_a_channel(tmp_path: Path, zipped: bool) -> None:
    images = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)
    squeeze = gzip.compress if zipped else bytes
    (tmp_path / "images").write_bytes(squeeze(idx_bytes(images)))
    (tmp_path / "labels").write_bytes(squeeze(idx_bytes(np.array([1, 0, 2, 1], dtype=np.uint8))))
    samples = open_samples("idx", base=tmp_path, name="x", images="images", labels="labels")
    batch = samples.read([3, 1])
    assert np.array_equal(batch.inputs, images[[3, 1], None])
    assert batch.inputs.dtype == np.uint8
    assert batch.labels.tolist() == [1, 0]
    assert samples.ids(0, 2) == ["0", "1"]


def test_idx_of_big_endian_labels_is_read(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(idx_bytes(np.zeros((2, 2, 2), dtype=np.uint8)))
    (tmp_path / "labels").write_bytes(idx_bytes(np.array([300, 7], dtype=np.int32), code=0x0C))
    samples = open_samples("idx", base=tmp_path, name="x", images="images", labels="labels")
    assert samples.read([0, 1]).labels.tolist() == [300, 7]


def write_faulty(base: Path) -> None:
    np.save(base / "short.npy", LABELS[:3])
    np.save(base / "fortran.npy", np.asfortranarray(np.ones((5, 4))))
    np.save(base / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.save(base / "half.npy", LABELS / 2)
    (base / "junk.npy").write_bytes(b"junk")
    (base / "junk.npz").write_bytes(b"junk")


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"inputs": "z.npy"}, "x.inputs: there is no file"),
        ({"inputs": "x.npy", "labels": "short.npy"}, "x.labels: has shape (3,), but there are 5"),
        ({"inputs": "x.npy", "labels": "half.npy"}, "x.labels: must be whole numbers; got float64"),
        ({"inputs": "x.npy", "ids": "half.npy"}, "x.ids: must be text or whole numbers"),
        ({"inputs": "ids.npy"}, "x.inputs: must be numbers; got <U1"),
        ({"inputs": "fortran.npy"}, "is stored in Fortran order"),
        ({"inputs": "objects.npy"}, "is not a readable .npy file"),
        ({"inputs": "junk.npy"}, "is not a readable .npy file"),
        ({"inputs": "all.npz"}, "for a .npz file give its path too"),
        ({"path": "junk.npz", "inputs": "x"}, "is not a readable .npz file: it is no zip archive"),
        ({"path": "all.npz", "inputs": "idz"}, "has no member 'idz'; did you mean 'ids'? it holds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_arrays_are_refused(base: Path, places: dict[str, str], message: str) -> None:
    write_faulty(base)
    with pytest.raises(SampleError) as caught:
        open_samples("arrays", base=base, name="x", **places)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG....", "is not a readable idx file: it begins with 89 50 4e 47, not 00 00 08"),
        (b"", "it begins with nothing"),
        (idx_bytes(np.zeros((2, 2, 2), np.uint8))[:9], "its header is cut off"),
        (
            idx_bytes(np.zeros((2, 2, 2), np.uint8))[:-1],
            "holds 7 bytes after its header, which promises 8 (2 x 2 x 2 uint8)",
        ),
        (idx_bytes(np.zeros((2, 2), np.uint8)), "holds uint8 of shape (2, 2); images must be"),
        (
            gzip.compress(idx_bytes(np.zeros((2, 2, 2), np.uint8)))[:-9],
            "is not a readable idx file: Compressed file ended",
        ),
    ],
    ids=["png", "empty", "header", "short", "labels", "gzip"],
)
def test_broken_idx_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(SampleError) as caught:
        open_samples("idx", base=tmp_path, name="x", images="images")
    assert str(caught.value).startswith("x.images: ")
    assert message in str(caught.value)


def test_file_cut_after_opening_is_noticed(base: Path) -> None:
    samples = open_samples("arrays", base=base, name="x", inputs="x.npy")
    (base / "x.npy").write_bytes((base / "x.npy").read_bytes()[:-4])
    with pytest.raises(SampleError, match="x: the file ends 4 bytes early; restore the file"):
        samples.read([3, 4])


@pytest.mark.parametrize("stored", [None, np.arange(7, 12), np.array(list("abcde"))])
def test_ids_are_those_of_the_places_that_were_asked_for(stored: Any) -> None:
    samples = ArraySamples("data", None, np.zeros((5, 2)), None, stored)
    places = np.array([3, 0])
    batch = samples.read(places)
    places[:] = 4  # whoever asked may go on with them
    assert batch.ids == [samples.ids(place, place + 1)[0] for place in (3, 0)]
    assert batch.cut(slice(1, 2)).ids == samples.ids(0, 1)
