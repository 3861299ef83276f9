"""A folder that `datasets` saved becomes text or images; written here as that library writes it."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.errors import SampleError
from pipeline.samples import Samples, open_samples, scan_samples, tokens_of
from pipeline.samples.text.rows import TextSamples

TEXTS = ["to be", "or not", "that is", "the question", "whether 'tis", "nobler"]
LABELS = [0, 1, -1, 1, 0, 1]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)
MOOD = {"names": ["calm", "cross"], "_type": "ClassLabel"}


def save(folder: Path, table: pa.Table, features: dict[str, Any], files: int = 2) -> None:
    """Save a table as `Dataset.save_to_disk` of datasets 5.2 does, in batches of two rows."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    step = -(-len(table) // max(1, files))
    for number, name in enumerate(names):
        rows = table.slice(number * step, step)
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(rows, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    text = pa.table({"text": TEXTS, "mood": LABELS})
    save(tmp_path / "text", text, {"mood": MOOD})
    for split in ("train", "test"):
        save(tmp_path / "splits" / split, text, {})
    (tmp_path / "splits/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    images = [{"bytes": png(each), "path": None} for each in PIXELS]
    save(tmp_path / "images", pa.table({"image": images, "mood": LABELS}), {"mood": MOOD}, 1)
    save(tmp_path / "empty", text.slice(0, 0), {}, 0)
    return tmp_path


def open_saved(base: Path, path: str, **settings: Any) -> Samples:
    return open_samples("huggingface", base=base, name="data.train", path=path, **settings)


def open_text(base: Path, path: str = "text", **settings: Any) -> TextSamples:
    samples = open_saved(base, path, **({"tokenizer": "bytes", "length": 16} | settings))
    assert isinstance(samples, TextSamples)
    return samples


def test_text_is_laid_out_as_text_files_are(base: Path) -> None:
    (base / "text.txt").write_text("\n".join(TEXTS))
    samples = open_text(base, pack=True)
    lines = open_samples(
        "text", base=base, path="text.txt", tokenizer="bytes", length=16, pack=True
    )
    order = range(len(lines))
    assert len(samples) == len(lines)
    np.testing.assert_array_equal(samples.read(order).inputs, lines.read(order).inputs)
    assert samples.ids(0, 2) == ["data-00000-of-00002.arrow:1#0+1", "data-00000-of-00002.arrow:3#0"]
    assert open_text(base, "splits", split="test").ids(5, 6) == ["data-00001-of-00002.arrow:3#0"]


def test_a_split_folder_is_a_dataset_too(base: Path) -> None:
    assert len(open_text(base, "splits/train")) == 6


def test_labels_have_the_names_that_the_dataset_gives_them(base: Path) -> None:
    samples = open_text(base, task="label", label="mood")
    assert samples.class_names == ("calm", "cross")
    assert samples.read(range(6)).labels.tolist() == LABELS
    assert open_text(base, label="mood", class_names=["a", "b"]).class_names == ("a", "b")


def test_images_are_read_in_any_order(base: Path) -> None:
    samples = open_saved(base, "images", label="mood")
    assert samples.class_names == ("calm", "cross")
    scan = scan_samples(samples)
    assert (scan.count, scan.label_counts, scan.unlabelled) == (6, {0: 2, 1: 3}, 1)
    for order in ([5, 0, 3, 3, 2], range(6)):
        batch = samples.read(order)
        np.testing.assert_array_equal(batch.inputs, PIXELS[list(order)])
        assert batch.labels.tolist() == [LABELS[each] for each in order]
    assert samples.ids(4, 6) == ["data-00000-of-00001.arrow:4", "data-00000-of-00001.arrow:5"]
    assert open_saved(base, "images", size=[2, 2], mode="L").read([1]).inputs.shape == (1, 1, 2, 2)


def test_what_is_missing_in_a_column_is_named(base: Path) -> None:
    table = pa.table({"text": ["to be", None, ""], "image": [b"png", None, b""]})
    save(base / "holes", table, {}, 1)
    file = "data-00000-of-00001.arrow"
    with pytest.raises(SampleError, match=rf"{file}:2#0 \(has no text under 'text'\), {file}:3#0"):
        scan_samples(open_text(base, "holes"))
    with pytest.raises(SampleError, match=rf"{file}:1 \(has no input\)"):
        scan_samples(open_saved(base, "holes"))


BYTES = {"tokenizer": "bytes", "length": 8}


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("none", BYTES, "path: {base}/none is no dataset that `datasets` saved: it has neither "
         "state.json nor dataset_dict.json. Give the folder of Dataset.save_to_disk; for files of "
         "text, Parquet or images use their own kinds"),
        ("empty", BYTES, "path: {base}/empty holds no rows; save a dataset that has some"),
        ("splits", BYTES, "split: {base}/splits holds train, test; say which, as in split = "
         "'train'"),
        ("splits", {**BYTES, "split": "tran"}, "split: {base}/splits has no split 'tran'; did you "
         "mean 'train'? there are train, test"),
        ("text", {**BYTES, "split": "train"}, "split: {base}/text is one dataset, not several; "
         "leave split = 'train' out"),
        ("text", {"tokenizer": "bytes"}, "length: text needs it: the most tokens that a row has, "
         "from 2 up"),
        ("text", {**BYTES, "size": [8, 8]}, "size: is for images, which have no tokenizer; leave "
         "one of the two out"),
        ("text", {**BYTES, "task": "label", "pack": True}, "pack: a row with a label is one "
         "document; leave pack out"),
        ("text", {"column": "text"}, "column: 'text' is text; name a tokenizer, and a length"),
        ("text", {}, "column: there is no column 'image'; there are text, mood. For text name a "
         "tokenizer"),
        ("images", {"length": 8}, "length: is for text; name its tokenizer too"),
        ("images", {"label": "moot"}, "label: there is no column 'moot'; did you mean 'mood'? "
         "there are image, mood"),
        ("images", {"column": "mood"}, "column: a column of int64 cannot be an input; it must hold "
         "encoded images, raw bytes or lists of numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_says_why(
    base: Path, path: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SampleError) as caught:
        open_saved(base, path, **settings)
    assert str(caught.value) == "data.train." + message.format(base=base)


def test_an_unknown_column_of_text_is_refused(base: Path) -> None:
    with pytest.raises(SampleError, match=r"has no column 'txt'; did you mean 'text'\? it has tex"):
        open_text(base, column="txt")


@pytest.mark.parametrize("settings", [BYTES, {"column": "mood"}], ids=["text", "images"])
@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (8, "data-00001-of-00002.arrow was cut off: it lacks the mark at the end of an Arrow"),
        (100, "data-00001-of-00002.arrow was cut off"),
        (None, "data-00001-of-00002.arrow is missing; restore it, or save it again"),
    ],
)
def test_files_that_are_not_whole_are_refused(
    base: Path, settings: dict[str, Any], cut: int | None, message: str
) -> None:
    file = base / "text/data-00001-of-00002.arrow"
    whole = file.read_bytes()
    file.unlink()
    if cut:
        file.write_bytes(whole[:-cut])
    with pytest.raises(SampleError, match=message):
        open_saved(base, "text", **settings)


@pytest.mark.parametrize("settings", [BYTES, {"column": "mood"}], ids=["text", "images"])
def test_a_damaged_file_is_refused_by_name(base: Path, settings: dict[str, Any]) -> None:
    file = base / "text/data-00001-of-00002.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[:4] + b"\xff" * 200 + whole[204:])
    with pytest.raises(
        SampleError, match=r"data-00001-of-00002.arrow (is no Arrow file|cannot be)"
    ):
        open_saved(base, "text", **settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "state.json is no JSON object; save the dataset again"),
        ("{", "state.json cannot be read: "),
        ("{}", "state.json names no files; save the dataset again"),
        ('{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}',
         "holds a choice of rows that an old `datasets` kept beside all of them"),
    ],
)  # fmt: skip
def test_a_folder_that_says_other_things_is_refused(base: Path, content: str, message: str) -> None:
    (base / "text/state.json").write_text(content)
    with pytest.raises(SampleError, match=message):
        open_text(base)


def test_tokens_are_masked_as_those_of_text_files(base: Path) -> None:
    (base / "lines.txt").write_text("\n".join(TEXTS))
    masked: dict[str, Any] = {"task": "masked_token", "mask_token": "mask"}
    settings: dict[str, Any] = {"tokenizer": "bytes", "length": 16, **masked}
    files = open_samples("text", base=base, name="data.train", path="lines.txt", **settings)
    ours, theirs = tokens_of(open_text(base, **settings)), tokens_of(files)
    assert ours == theirs
    assert ours is not None
    assert theirs is not None
    assert ours.maskable is not None
    assert theirs.maskable is not None
    assert ours.maskable.token == theirs.maskable.token == 257
    assert ours.maskable.counts.tolist() == theirs.maskable.counts.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer": None, "length": None}, "data.train.mask_token: is for text; name its"),
        ({}, "data.train.mask_token: nothing is masked but for the task 'masked_token'"),
        ({"task": "masked_token", "mask_token": "[MASK]"}, "bytes have no token '\\[MASK\\]'"),
    ],
)
def test_a_token_that_masks_nothing_is_refused(
    base: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SampleError, match=message):
        open_text(base, **{"mask_token": "mask", **settings})
