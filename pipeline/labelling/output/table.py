"""The table of pseudo-labels: one Parquet file, a row for every row of the cache, in its order.

It opens in any tool that reads Parquet; guide/pseudo-labels.md says what the columns mean.
Written a row group at a time under another name, so a table that has its name is whole.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorruptTable, PipelineError
from pipeline.labelling.output.folder import MEND, SUMMARY_FILE, TABLE_FILE, read_summary

KEY, VERSION = "pseudo_labels", 1
# No dictionaries and no fixed-size binary: the datasets library opens neither.
COLUMNS = {
    "id": "string",
    "digest": "binary",
    "label": "int32",
    "label_name": "string",
    "confidence": "float32",
    "margin": "float32",
    "entropy": "float32",
    "weight": "float32",
    "copies": "int32",
    "chosen": "bool",
    "why_not": "string",
}
# What a student needs of a row.
LEARNED = ("label", "weight", "copies")
BATCH_ROWS = 65_536


@dataclass(frozen=True)
class TableWriter:
    """What writes a table, one row group after another."""

    _writer: Any
    _schema: Any

    def write(self, columns: Mapping[str, Any]) -> None:
        """Write a row group. Shapes: each column (n,), digest (n, 16)."""
        self._writer.write_table(_table(self._schema, columns))

    def describe(self, about: Mapping[str, Any]) -> None:
        """Say what the table is, once all of it is written."""
        told = json.dumps({"version": VERSION, **about})
        self._writer.add_key_value_metadata({KEY: told})


@contextmanager
def write_table(folder: Path) -> Iterator[TableWriter]:
    """Open the writer of a table, which gets its name at the end."""
    import pyarrow.parquet as pq

    partial, schema = folder / f".{TABLE_FILE}.partial", _schema()
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            yield TableWriter(writer, schema)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, folder / TABLE_FILE)
    finally:
        partial.unlink(missing_ok=True)


def _schema() -> Any:
    import pyarrow as pa

    nullable = ("label_name", "why_not")
    return pa.schema(
        [
            pa.field(name, getattr(pa, f"{kind}_" if kind == "bool" else kind)(), name in nullable)
            for name, kind in COLUMNS.items()
        ]
    )


def _table(schema: Any, columns: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    arrays = [
        pa.array(
            _binary(columns[field.name]) if field.name == "digest" else columns[field.name],
            field.type,
        )
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _binary(digests: NDArray[np.uint8]) -> Any:
    """Shapes: digests (n, 16)."""
    import pyarrow as pa

    content = pa.py_buffer(np.ascontiguousarray(digests))
    fixed = pa.Array.from_buffers(pa.binary(digests.shape[1]), len(digests), [None, content])
    return fixed.cast(pa.binary())


@dataclass(frozen=True)
class PseudoLabelTable:
    """A table, opened; it reads some rows at a time, in order."""

    path: Path
    rows: int
    about: Mapping[str, Any]
    sha256: str

    def identities(self) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
        """Give ids and digests. Shapes: yields n ids and (n, 16).

        Raises: CorruptTable if the file cannot be read.
        """
        for batch in self._batches(["id", "digest"]):
            digests = np.frombuffer(b"".join(batch["digest"].to_pylist()), np.uint8)
            yield batch["id"].to_pylist(), digests.reshape(batch.num_rows, -1)

    def learned(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Give what a student needs. Shapes: yields (n,) each.

        Raises: CorruptTable if the file cannot be read.
        """
        for batch in self._batches(LEARNED):
            yield {name: batch[name].to_numpy() for name in LEARNED}

    def _batches(self, names: Sequence[str]) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                yield from file.iter_batches(BATCH_ROWS, columns=list(names))
        except (pa.ArrowException, OSError) as error:
            raise CorruptTable(f"{self.path}: cannot be read: {error}. {MEND}") from error


def open_table(folder: str | Path) -> PseudoLabelTable:
    """Open the table of a folder that `pipeline pseudo-label` wrote, every byte of it checked.

    Raises: PipelineError if there is none, or none that is finished; CorruptTable if it is not what
        was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, summary = Path(folder) / TABLE_FILE, read_summary(Path(folder))
    if summary is None or not file.is_file():
        raise PipelineError(
            f"{file}: there is no finished table. Make it with `pipeline pseudo-label RECIPE`."
        )
    sha256 = digest_table(file)
    if sha256 != summary.get("sha256"):
        raise CorruptTable(
            f"{file}: is not what was written: its SHA-256 is {sha256[:16]}, and {SUMMARY_FILE} "
            f"says {str(summary.get('sha256'))[:16]}. {MEND}"
        )
    try:
        with pq.ParquetFile(file) as opened:
            described, rows = opened.metadata.metadata or {}, opened.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise CorruptTable(f"{file}: cannot be read: {error}. {MEND}") from error
    about = json.loads(described.get(KEY.encode(), b"{}"))
    if about.get("version") != VERSION:
        raise CorruptTable(
            f"{file}: is no table of pseudo-labels of version {VERSION}; it says version "
            f"{about.get('version')}. Make it again with `pipeline pseudo-label RECIPE`."
        )
    return PseudoLabelTable(file, rows, about, sha256)


def digest_table(file: Path) -> str:
    """Digest the whole file of a table."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
