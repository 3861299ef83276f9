import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import SampleError
from pipeline.samples import open_samples, scan_samples
from pipeline.samples.tables.groups import HeldRowGroups

COUNT = 50
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 6), dtype=np.uint8)
NAMES = [f"n{number}" for number in range(COUNT)]
KINDS = [["cat", "dog", "eel"][number % 3] for number in range(COUNT)]


def table_of(**columns: Any) -> pa.Table:
    raw = pa.array([row.tobytes() for row in PIXELS], type=pa.binary(6))
    labels = pa.array([n % 3 for n in range(COUNT)], type=pa.int8())
    split = ["test" if n % 5 == 0 else "train" for n in range(COUNT)]
    return pa.table(
        {"raw": raw, "id": NAMES, "label": labels, "kind": KINDS, "split": split} | columns
    )


def write(path: Path, table: pa.Table, group: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


def png(pixels: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """One table as a file, and as a folder of three files with row groups of their own."""
    write(tmp_path / "one.parquet", table_of())
    for start, stop, group, place in ((0, 20, 6, "a"), (20, 21, 1, "b"), (21, 50, 11, "sub/c")):
        write(tmp_path / f"many/{place}.parquet", table_of().slice(start, stop - start), group)
    return tmp_path


def open_raw(base: Path, path: str, **arguments: Any) -> Any:
    given = {"input": "raw", "id": "id", "label": "label", "shape": [1, 2, 3]} | arguments
    return open_samples("parquet", base=base, name="data.train", path=path, **given)


@pytest.mark.parametrize(
    "path", ["one.parquet", "many", "many/**/*.parquet"], ids=["file", "folder", "glob"]
)
def test_random_order_equals_sequential(base: Path, path: str) -> None:
    samples = open_raw(base, path)
    order = np.random.default_rng(1).permutation(COUNT)
    batch = samples.read([*order, 3, 3])
    assert len(samples) == COUNT
    assert batch.ids == [NAMES[n] for n in [*order, 3, 3]]
    assert np.array_equal(batch.inputs, PIXELS[[*order, 3, 3]].reshape(-1, 1, 2, 3))
    assert batch.labels.tolist() == [n % 3 for n in [*order, 3, 3]]
    assert samples.ids(15, 25) == NAMES[15:25]
    assert samples.ids(48, 99) == NAMES[48:]


def test_default_ids_name_the_file_and_its_row(base: Path) -> None:
    samples = open_raw(base, "many", id=None)
    assert samples.ids(19, 23) == [
        "a.parquet:19",
        "b.parquet:0",
        "sub/c.parquet:0",
        "sub/c.parquet:1",
    ]
    assert open_raw(base, "many/*/*.parquet", id=None).ids(0, 1) == ["c.parquet:0"]


def test_filter_keeps_rows_and_their_default_ids(base: Path) -> None:
    samples = open_raw(base, "many", id=None, filter={"split": "test", "label": 1})
    kept = [n for n in range(COUNT) if n % 5 == 0 and n % 3 == 1]
    assert np.array_equal(samples.read(range(len(samples))).inputs.reshape(-1, 6), PIXELS[kept])
    assert samples.ids(0, 2) == ["a.parquet:10", "sub/c.parquet:4"]
    assert samples.chosen.nbytes == 8 * len(kept)


def test_filter_that_leaves_nothing_says_what_there_is(base: Path) -> None:
    with pytest.raises(SampleError) as caught:
        open_raw(base, "one.parquet", filter={"split": "trian"})
    assert str(caught.value) == (
        "data.train.filter: no row has split = 'trian'; split holds 'test', 'train'"
    )


def test_no_more_row_groups_are_held_than_the_limit_allows(base: Path) -> None:
    groups = open_raw(base, "one.parquet").groups
    one = groups.load(0, ("raw",)).nbytes
    held = HeldRowGroups(2 * one)
    for group in (0, 1, 0, 2, 3, 3, 6):
        assert held.get(groups, group, ("raw",)).equals(groups.load(group, ("raw",)))
        assert held.held_bytes <= 2 * one


def test_row_group_above_the_limit_is_held_alone(base: Path) -> None:
    groups = open_raw(base, "one.parquet").groups
    held = HeldRowGroups(1)
    tables = [held.get(groups, group, ("raw",)) for group in (0, 1)]
    assert held.held_bytes == tables[1].nbytes


def test_threads_read_the_same_rows(base: Path) -> None:
    samples = open_raw(base, "many")
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda n: samples.read([n, (n * 7) % COUNT]), range(COUNT)))
    assert [batch.ids[0] for batch in batches] == NAMES


def test_datasets_travel_to_other_processes(base: Path) -> None:
    samples = open_raw(base, "many", filter={"split": "train"})
    samples.read([0])
    again = pickle.loads(pickle.dumps(samples))
    assert again.held.held_bytes == 0
    assert again.read([1, 9]).ids == samples.read([1, 9]).ids


@pytest.mark.parametrize("struct", [False, True], ids=["bytes", "struct of bytes and path"])
def test_encoded_images_are_decoded(tmp_path: Path, struct: bool) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    encoded = [png(pixels[0]), png(pixels[1], "jpeg")]
    values = [{"bytes": each, "path": "x"} for each in encoded] if struct else encoded
    write(tmp_path / "a.parquet", pa.table({"image": values}))
    samples = open_samples("parquet", base=tmp_path, name="x", path="a.parquet", input="image")
    inputs = samples.read([1, 0]).inputs
    assert inputs.shape == (2, 3, 4, 5)
    assert np.array_equal(inputs[1], pixels[0].transpose(2, 0, 1))
    assert open_samples(
        "parquet", base=tmp_path, name="x", path="*.parquet", input="image", size=[2, 2], mode="L"
    ).read([0]).inputs.shape == (1, 1, 2, 2)


@pytest.mark.parametrize(
    ("column", "arguments", "shape", "dtype"),
    [
        (pa.array(PIXELS.tolist()), {}, (6,), "int64"),
        (
            pa.array(PIXELS.tolist(), pa.list_(pa.float32(), 6)),
            {"shape": [3, 2]},
            (3, 2),
            "float32",
        ),
        (pa.array(PIXELS.tolist()), {"shape": [2, 3], "dtype": "uint8"}, (2, 3), "uint8"),
        (pa.array([r.tobytes() for r in PIXELS]), {"shape": [3], "dtype": "int16"}, (3,), "int16"),
        (pa.array([r.tobytes() for r in PIXELS], pa.binary(6)), {}, (6,), "uint8"),
    ],
    ids=["lists", "fixed lists", "shaped lists", "raw bytes", "fixed bytes"],
)
def test_columns_of_numbers_become_arrays(
    tmp_path: Path, column: pa.Array, arguments: dict[str, Any], shape: tuple[int, ...], dtype: str
) -> None:
    write(tmp_path / "a.parquet", table_of(raw=column))
    inputs = open_raw(tmp_path, "a.parquet", **({"shape": None} | arguments)).read([9, 2]).inputs
    expected = PIXELS[[9, 2]].view(np.int16) if dtype == "int16" else PIXELS[[9, 2]]
    assert (inputs.shape, inputs.dtype.name) == ((2, *shape), dtype)
    assert np.array_equal(inputs, expected.reshape(2, *shape))


@pytest.mark.parametrize("dictionary", [False, True], ids=["strings", "dictionary"])
def test_text_labels_become_numbers_by_class_names(tmp_path: Path, dictionary: bool) -> None:
    kinds = pa.array([None, *KINDS[1:]])
    write(tmp_path / "a.parquet", table_of(kind=kinds.dictionary_encode() if dictionary else kinds))
    samples = open_raw(tmp_path, "a.parquet", label="kind", class_names=["eel", "dog", "cat"])
    assert samples.read([0, 1, 2, 3]).labels.tolist() == [-1, 1, 0, 2]
    assert samples.labels([2]).tolist() == [0]


def test_missing_labels_are_unlabelled(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table_of(label=pa.array([None, 2] * 25)))
    assert open_raw(tmp_path, "a.parquet").read([0, 1]).labels.tolist() == [-1, 2]
    assert open_raw(tmp_path, "a.parquet", label=None).read([1]).labels.tolist() == [-1]


def test_whole_number_ids_become_text(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table_of(id=list(range(100, 150))))
    assert open_raw(tmp_path, "a.parquet").read([3]).ids == ["103"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "none"}, "data.train.path: there is no Parquet file at"),
        ({"path": "junk.parquet"}, "junk.parquet is not a readable Parquet file"),
        ({"path": "*.parquet"}, "is not a readable Parquet file"),
        ({"path": "unlike"}, "two.parquet differ from those of"),
        ({"input": "row"}, "data.train.input: there is no column 'row'; did you mean 'raw'? there"),
        (
            {"filter": {"splits": 1}},
            "data.train.filter.splits: there is no column 'splits'; did you",
        ),
        (
            {"filter": {"label": "x"}},
            "data.train.filter.label: 'x' cannot be compared with a column",
        ),
        ({"shape": [7]}, "data.train.input: 6 bytes a row are not 7 uint8; mend shape or dtype"),
        ({"dtype": "float"}, "data.train.input: 6 bytes a row are not 1 x 2 x 3 float64"),
        ({"dtype": "float31"}, "data.train.input: 'float31' is no dtype; name one such as"),
        ({"dtype": "str"}, "data.train.input: dtype must be of numbers"),
        ({"input": "label"}, "data.train.input: a column of int8 cannot be an input"),
        ({"label": "kind"}, "its labels are text, so class_names must list the classes in order"),
        (
            {"label": "kind", "class_names": ["cat"]},
            "data.train.label: dog, eel not among class_names (cat); add them, or mend the labels",
        ),
        ({"label": "raw"}, "data.train.label: must be whole numbers or text; 'raw' is fixed_size"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_unusable_files_are_refused(base: Path, arguments: dict[str, Any], message: str) -> None:
    (base / "junk.parquet").write_bytes(b"PAR1 but no more")
    write(base / "unlike/one.parquet", table_of())
    write(base / "unlike/two.parquet", table_of(label=NAMES))
    with pytest.raises(SampleError) as caught:
        open_raw(base, **({"path": "one.parquet"} | arguments))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            {"raw": [b"123456", b"12", None] + [b"123456"] * 47},
            "n1 has 2 bytes; 1 x 2 x 3 uint8 are 6",
        ),
        (
            {"raw": [[1] * 6, [1] * 5] + [[1] * 6] * 48},
            "n1 has 5 numbers; expected 6 as shape says",
        ),
        ({"raw": [[1] * 6, None] * 25}, "data.train: n1 has no input"),
        (
            {"raw": [[1] * 6, [1, None, 1, 1, 1, 1]] * 25},
            "there are empty values in the lists of n0",
        ),
        (
            {"id": [None] * 50},
            "a.parquet:0 has no value in the id column 'id'; every sample needs one",
        ),
    ],
    ids=["bytes", "lists", "no list", "holes", "ids"],
)
def test_unusable_rows_are_named(tmp_path: Path, column: dict[str, Any], message: str) -> None:
    write(tmp_path / "a.parquet", table_of(**column))
    with pytest.raises(SampleError) as caught:
        open_raw(tmp_path, "a.parquet").read([0, 1])
    assert message in str(caught.value)


def test_missing_input_is_skipped_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table_of(raw=[None] + [b"123456"] * 49))
    scan = scan_samples(open_raw(tmp_path, "a.parquet"), on_error="skip")
    assert [(each.index, each.id, each.reason) for each in scan.skipped] == [
        (0, "n0", "has no input")
    ]


def test_damage_after_opening_is_named(base: Path) -> None:
    samples = open_raw(base, "one.parquet")
    content = (base / "one.parquet").read_bytes()
    (base / "one.parquet").write_bytes(b"\0" * len(content))
    with pytest.raises(SampleError, match=r"^data.train: .*one.parquet cannot be read: "):
        samples.read([0])
