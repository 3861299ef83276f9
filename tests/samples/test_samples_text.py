"""Text becomes rows of tokens: nothing lost, nothing mixed up, everything named."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError, SampleError
from pipeline.samples import open_samples, positions_of, scan_samples
from pipeline.samples.text.rows import TextSamples
from pipeline.samples.text.tokenizer import open_tokenizer
from pipeline.samples.text.tokens import PADDING, is_predicted, read_text, token_row


def open_text(base: Path, path: str = "text.txt", **settings: Any) -> TextSamples:
    arguments = {"tokenizer": "bytes", "length": 8} | settings
    samples = open_samples("text", base=base, name="data.train", path=path, **arguments)
    assert isinstance(samples, TextSamples)
    return samples


def texts_of(samples: TextSamples) -> list[list[str]]:
    """Read every row back to the texts of its documents."""
    rows = samples.read(range(len(samples))).inputs
    return [
        [bytes(row[0][row[1] == each].tolist()).decode() for each in range(row[1].max() + 1)]
        for row in rows
    ]


def test_each_line_is_a_document_and_a_long_one_is_cut(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be\n\nor not to be, that is\r\n")
    samples = open_text(tmp_path)
    assert texts_of(samples) == [["to be"], ["or not t"], ["o be, th"], ["at is"]]
    assert samples.ids(0, 9) == ["text.txt:1#0", "text.txt:3#0", "text.txt:3#1", "text.txt:3#2"]
    assert samples.read([3, 0]).ids == ["text.txt:3#2", "text.txt:1#0"]


def test_a_whole_file_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a\n\nb\n")
    samples = open_text(tmp_path, document="file")
    assert texts_of(samples) == [["a\n\nb\n"]]


def test_packed_rows_hold_whole_pieces_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abc\nde\nfghijklmnop\nqr\nst\n")
    samples = open_text(tmp_path, pack=True)
    assert texts_of(samples) == [["abc", "de"], ["fghijklm"], ["nop", "qr", "st"]]
    assert samples.ids(0, 3) == ["text.txt:1#0+1", "text.txt:3#0", "text.txt:3#1+2"]
    inputs = samples.read([0]).inputs
    assert inputs.tolist() == [[[97, 98, 99, 100, 101, 0, 0, 0], [0, 0, 0, 1, 1, -1, -1, -1]]]


def test_a_document_of_l_tokens_asks_l_minus_1_questions(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abc\nde\nfghijklmnop\n")
    samples = open_text(tmp_path, pack=True)
    positions = positions_of(samples, samples.read(range(len(samples))))
    assert positions.counts.tolist() == [3, 7, 2]
    assert bytes(positions.labels.tolist()) == b"bc" + b"e" + b"ghijklm" + b"op"


def test_the_end_of_a_document_is_a_token_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abc\n")
    row = open_text(tmp_path, end="end").read([0]).inputs[0]
    assert row[0, :4].tolist() == [97, 98, 99, 256]


@given(sizes=st.lists(st.integers(1, 8), max_size=4), length=st.integers(32, 40))
def test_questions_never_cross_documents(sizes: list[int], length: int) -> None:
    pieces = [np.full(size, number + 1, np.int32) for number, size in enumerate(sizes)]
    inputs = token_row(pieces, length)[None]
    asked = is_predicted(inputs)[0]
    assert asked.sum() == sum(size - 1 for size in sizes)
    tokens, documents = inputs[0]
    assert (tokens[1:][asked] == tokens[:-1][asked]).all()
    assert (documents[sum(sizes) :] == PADDING).all()


def test_jsonl_and_parquet_are_documents_with_labels(tmp_path: Path) -> None:
    rows = [{"body": "yes", "mood": 1}, {"body": "no", "mood": 0}, {"body": "well", "mood": None}]
    (tmp_path / "text.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "text.parquet")
    settings = {"task": "label", "column": "body", "label": "mood"}
    for name in ("text.jsonl", "text.parquet"):
        samples = open_text(tmp_path, name, **settings)
        assert texts_of(samples) == [["yes"], ["no"], ["well"]]
        batch = samples.read([0, 1, 2])
        assert batch.labels.tolist() == [1, 0, -1]
        assert positions_of(samples, batch).counts.tolist() == [1, 1, 1]


def test_files_of_a_folder_come_in_order_under_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "corpus/inner").mkdir(parents=True)
    (tmp_path / "corpus/b.txt").write_text("bb")
    (tmp_path / "corpus/inner/a.jsonl").write_text('{"text": "aa"}')
    (tmp_path / "corpus/notes.md").write_text("not text of ours")
    assert open_text(tmp_path, "corpus").ids(0, 9) == ["b.txt:1#0", "inner/a.jsonl:1#0"]
    assert open_text(tmp_path, "corpus/*.txt").ids(0, 9) == ["corpus/b.txt:1#0"]


FAULTS = b"""{"text": "good one"}
{"text": "trunc
{"text": ""}
{"body": "elsewhere"}
[1, 2]
{"text": "\xff\xfe"}
{"text": "x"}
"""


def test_documents_that_cannot_be_used_are_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_bytes(FAULTS)
    with pytest.raises(SampleError) as caught:
        scan_samples(open_text(tmp_path, "text.jsonl"))
    assert str(caught.value) == (
        "data.train: 6 faults in 7 samples\n"
        "  unreadable: 6: "
        "text.jsonl:2#0 (is not JSON: Invalid control character at place 15), "
        "text.jsonl:3#0 (is empty), text.jsonl:4#0 (has no text under 'text'), "
        "text.jsonl:5#0 (is no JSON object), "
        "text.jsonl:6#0 (is not UTF-8: invalid start byte at 10) and 1 more\n"
        '  Mend or remove them, or set on_error = "skip" to leave them out.'
    )


def test_what_is_skipped_is_recorded_and_nothing_else_is_lost(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_bytes(FAULTS)
    for pack in (False, True):
        scan = scan_samples(open_text(tmp_path, "text.jsonl", pack=pack), on_error="skip")
        assert scan.count == 1
        assert [each.reason for each in scan.skipped][-1] == ("has 1 token, too few to predict one")


def test_bytes_that_are_not_utf_8_are_placed(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"fine\nnot \xff fine\n")
    with pytest.raises(SampleError, match=r"text.txt:2#0 \(is not UTF-8: byte 0xff at place 4\)"):
        scan_samples(open_text(tmp_path))


def test_a_document_of_10_mb_on_one_line_is_read(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("0123456789" * 1_000_000)
    samples = open_text(tmp_path, length=1000)
    assert len(samples) == 10_000
    assert texts_of(samples)[-1] == ["0123456789" * 100]


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("none.txt", {}, "data.train.path: there is no text at {base}/none.txt; give a file, a "
         "folder or a glob of .txt, .jsonl, .parquet"),
        ("notes.*", {}, "data.train.path: {base}/notes.md is not one of .txt, .jsonl, .parquet; "
         "leave it out"),
        ("text.txt", {"end": "<eos>"}, "data.train.end: bytes have no token '<eos>'; allowed is "
         "'end', or nothing"),
        ("text.txt", {"pack": True, "task": "label"}, "data.train.pack: a row with a label is one "
         "document; leave pack out"),
        ("text.txt", {"label": "mood"}, "data.train.label: text.txt has no column of labels; "
         "give .jsonl or .parquet, or leave label out"),
        ("rows.parquet", {"column": "txt"}, "data.train: {base}/rows.parquet has no column 'txt'; "
         "did you mean 'text'? it has text"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_says_why(
    tmp_path: Path, path: str, settings: dict[str, Any], message: str
) -> None:
    (tmp_path / "text.txt").write_text("to be")
    (tmp_path / "notes.md").write_text("to be")
    pq.write_table(pa.table({"text": ["to be"]}), tmp_path / "rows.parquet")
    with pytest.raises(SampleError) as caught:
        open_text(tmp_path, path, **settings)
    assert str(caught.value) == message.format(base=tmp_path)


def test_a_tokenizer_of_the_library_is_opened_from_its_folder(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "to": 1, "be": 2, "<eos>": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("to be or\n")
    samples = open_text(tmp_path, tokenizer=".", end="<eos>")
    assert samples.read([0]).inputs[0, 0, :4].tolist() == [1, 2, 0, 3]
    assert samples.tokens.vocabulary == 4
    other = open_text(tmp_path, tokenizer="tokenizer.json")
    assert other.tokens.tokenizer_digest != samples.tokens.tokenizer_digest
    with pytest.raises(SampleError, match=r"data.train.end: the tokenizer has no token '</s>'"):
        open_text(tmp_path, tokenizer=".", end="</s>")


def make_tokenizer(folder: Path, *, mask: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, mask: 3, "to": 4, "be": 5, "or": 6}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"] + ([mask] if mask != "gap" else []))
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(("mask", "named"), [("[MASK]", None), ("<mask>", None), ("gap", "gap")])
def test_each_piece_of_a_masked_text_is_framed_as_the_tokenizer_frames_texts(
    tmp_path: Path, mask: str, named: str | None
) -> None:
    make_tokenizer(tmp_path, mask=mask)
    (tmp_path / "text.txt").write_text("to be or be\nbe or what\n")
    samples = open_text(tmp_path, tokenizer=".", length=5, task="masked_token", mask_token=named)
    ids, documents = samples.read(range(len(samples))).inputs.swapaxes(0, 1)
    assert [row[given >= 0].tolist() for row, given in zip(ids, documents, strict=True)] == [
        [1, 4, 5, 6, 2],
        [1, 5, 2],
        [1, 5, 6, 0, 2],
    ]
    maskable = samples.tokens.maskable
    assert maskable
    assert maskable.token == 3
    assert maskable.counts.tolist() == [-1, -1, -1, -1, 1, 3, 2]


def test_texts_in_which_nothing_can_be_masked_are_named_or_left_out(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, mask="[MASK]")
    (tmp_path / "text.txt").write_text("what then\nto be or what what what be\n")
    samples = open_text(tmp_path, tokenizer=".", length=5, task="masked_token", end="[SEP]")
    assert samples.ids(0, 9) == ["text.txt:1#0", "text.txt:2#0", "text.txt:2#2"]
    scan = scan_samples(samples, on_error="skip")
    assert [each.reason for each in scan.skipped] == ["has 3 tokens, none of which can be masked"]
    counts = samples.tokens.maskable.counts if samples.tokens.maskable else None
    assert counts is not None
    assert counts.sum() == 4 - 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_token": "[GAP]"}, "data.train.mask_token: the tokenizer has no token '[GAP]'; name "
         "the one of its tokens that stands for a masked one"),
        ({}, "data.train.mask_token: the tokenizer has no [MASK] and no <mask>; name the one of "
         "its tokens that stands for a masked one"),
        ({"mask_token": "gap", "length": 2}, "data.train.length: must be above 2, the tokens that "
         "are put around every text; got 2"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_cannot_mask_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    make_tokenizer(tmp_path, mask="gap")
    (tmp_path / "text.txt").write_text("to be")
    with pytest.raises(SampleError) as caught:
        open_text(tmp_path, tokenizer=".", task="masked_token", **settings)
    assert str(caught.value) == message


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(SampleError, match=r"data.train.tokenizer: '.' cannot be opened \("):
        open_text(tmp_path, tokenizer=".")


def test_tokens_are_not_sent_to_another_process(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be")
    with pytest.raises(PipelineError, match="let a DataLoader fork its workers"):
        pickle.dumps(open_text(tmp_path))


def test_a_row_of_tokens_can_be_read_by_people(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(base=tmp_path, where="data.train", source="bytes", end=None)
    row = token_row([np.frombuffer("Ros\u00e9s".encode(), np.uint8).astype(np.int32)], 12)
    assert read_text(row, tokenizer.decode) == "Ros\u00e9s"
    long = token_row([np.full(400, ord("a"), np.int32)], 400)
    assert read_text(long, tokenizer.decode) == "a" * 300 + " ..."
