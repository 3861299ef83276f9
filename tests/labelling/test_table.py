from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorruptTable, PipelineError
from pipeline.labelling import TABLE_FILE, digest_table, open_table, write_summary
from pipeline.labelling.output.table import COLUMNS, write_table

ABOUT = {"class_count": 3, "class_names": ["a", "b", "c"], "rows_an_epoch": 7}


def make_columns(rows: int, start: int = 0) -> dict[str, Any]:
    number = np.arange(start, start + rows)
    return {
        "id": [f"s{each}" for each in number],
        "digest": np.repeat(number.astype(np.uint8)[:, None], 16, 1),
        "label": (number % 3).astype(np.int32),
        "label_name": ["abc"[each % 3] for each in number],
        "confidence": (1 / (1 + number)).astype(np.float32),
        "margin": np.zeros(rows, np.float32),
        "entropy": np.ones(rows, np.float32),
        "weight": np.full(rows, 0.5, np.float32),
        "copies": (number % 2).astype(np.int32),
        "chosen": number % 2 > 0,
        "why_not": [None if each % 2 else "below_limit" for each in number],
    }


def write(folder: Path, *blocks: int) -> None:
    start = 0
    with write_table(folder) as writer:
        for rows in blocks:
            writer.write(make_columns(rows, start))
            start += rows
        writer.describe(ABOUT)
    seal(folder)


def seal(folder: Path) -> None:
    """Say that the table is finished, and what it is."""
    write_summary(folder, {"sha256": digest_table(folder / TABLE_FILE)})


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    write(tmp_path, 5, 3)
    table = open_table(tmp_path)
    assert (table.rows, table.about["class_names"]) == (8, ["a", "b", "c"])
    ids, digests = zip(*table.identities(), strict=True)
    assert [each for block in ids for each in block] == [f"s{row}" for row in range(8)]
    assert np.concatenate(digests)[:, 3].tolist() == list(range(8))
    learned = list(table.learned())
    assert np.concatenate([each["copies"] for each in learned]).tolist() == [0, 1] * 4
    assert pq.read_table(tmp_path / TABLE_FILE).column_names == list(COLUMNS)


def test_a_table_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    def fail() -> None:
        with write_table(tmp_path) as writer:
            writer.write(make_columns(4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        PipelineError, match=r"there is no finished table\. Make it with `pipeline pseud"
    ):
        open_table(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense PAR1"], ids=["empty", "nonsense"])
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / TABLE_FILE).write_bytes(content)
    seal(tmp_path)
    with pytest.raises(CorruptTable, match="cannot be read"):
        open_table(tmp_path)


def test_another_parquet_file_is_no_table(tmp_path: Path) -> None:
    write(tmp_path, 4)
    pq.write_table(pq.read_table(tmp_path / TABLE_FILE).select(["id"]), tmp_path / TABLE_FILE)
    seal(tmp_path)
    with pytest.raises(
        CorruptTable, match="no table of pseudo-labels of version 1; it says version"
    ):
        open_table(tmp_path)


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_wherever_it_is(share: float, bit: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, 300)
        content = bytearray((folder / TABLE_FILE).read_bytes())
        content[int(share * len(content))] ^= 1 << bit
        (folder / TABLE_FILE).write_bytes(content)
        with pytest.raises(CorruptTable, match=r"is not what was written: its SHA-256 is"):
            open_table(folder)


def test_an_unfinished_table_is_none(tmp_path: Path) -> None:
    write(tmp_path, 4)
    (tmp_path / "summary.json").unlink()
    with pytest.raises(PipelineError, match=r"there is no finished table\. Make it with"):
        open_table(tmp_path)


@pytest.mark.conformance
@pytest.mark.parametrize("reader", ["pandas", "duckdb", "datasets"])
def test_the_table_opens_in_other_tools_as_it_is(tmp_path: Path, reader: str) -> None:
    library = pytest.importorskip(reader)
    write(tmp_path, 8)
    path = str(tmp_path / TABLE_FILE)
    if reader == "pandas":
        labels = library.read_parquet(path).query("chosen")["label_name"].tolist()
    elif reader == "duckdb":
        found = library.sql(f"select label_name from '{path}' where chosen").fetchall()
        labels = [name for (name,) in found]
    else:
        opened = library.Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"))
        labels = [row["label_name"] for row in opened if row["chosen"]]
    assert labels == ["b", "a", "c", "b"]
