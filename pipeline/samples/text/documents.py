"""Documents of text files, one after the other: lines, rows, or whole files.

A document that cannot be read is handed on as what is wrong with it. Knows no tokens.
"""

import glob
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import SampleError
from pipeline.factories import did_you_mean
from pipeline.samples.batch import UNLABELLED

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Document:
    """A text and its label, or the reason why there is none; `number` counts in its file."""

    file: int
    number: int
    text: str
    label: int = UNLABELLED
    fault: str = ""


@dataclass(frozen=True)
class Wanted:
    """What of a file is a document: the column of text, that of labels, lines or the whole."""

    column: str
    label: str | None
    whole: bool


# Of the dataset's name, a file and its number, and what is wanted of it.
Reader = Callable[[str, Path, int, Wanted], Iterator[Document]]


def find_files(base: Path, name: str, path: str) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Find the files of a path, a folder or a glob, in order, and what to call them.

    Raises: SampleError if there are none.
    """
    place = base / path
    if place.is_dir():
        found = sorted(each for each in place.rglob("*") if each.suffix in READERS)
        root = place
    elif place.is_file():
        found, root = [place], place.parent
    else:
        found = sorted(Path(each) for each in glob.glob(str(place), recursive=True))
        root = base
    files = [each for each in found if each.is_file()]
    endings = ", ".join(READERS)
    if not files:
        raise SampleError(
            f"{name}.path: there is no text at {place}; give a file, a folder or a glob of "
            f"{endings}"
        )
    if strange := [each for each in files if each.suffix not in READERS]:
        raise SampleError(f"{name}.path: {strange[0]} is not one of {endings}; leave it out")
    names = [
        each.relative_to(root).as_posix() if root in each.parents else str(each) for each in files
    ]
    return tuple(files), tuple(names)


def read_documents(name: str, files: tuple[Path, ...], wanted: Wanted) -> Iterator[Document]:
    """Read every document of every file, one after the other.

    Raises: SampleError if a file cannot be opened, or lacks the columns that are wanted.
    """
    for number, path in enumerate(files):
        try:
            reader = (READERS | SAVED_READERS)[path.suffix]
            yield from reader(name, path, number, wanted)
        except OSError as error:
            raise SampleError(f"{name}.path: {path} cannot be read: {error.strerror}") from error


def _read_text(name: str, path: Path, file: int, wanted: Wanted) -> Iterator[Document]:
    if wanted.whole:
        yield _decoded(file, 0, path.read_bytes())
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if line.strip():  # blank lines part paragraphs, and are no documents
                yield _decoded(file, number, line.rstrip(b"\r\n"))


def _decoded(file: int, number: int, content: bytes, label: int = UNLABELLED) -> Document:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        fault = f"is not UTF-8: byte {content[error.start]:#04x} at place {error.start}"
        return Document(file, number, "", fault=fault)
    return Document(file, number, text, label, "" if text.strip() else "is empty")


def _read_jsonl(name: str, path: Path, file: int, wanted: Wanted) -> Iterator[Document]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if line.strip():
                yield _from_json(file, number, line, wanted)


def _from_json(file: int, number: int, line: bytes, wanted: Wanted) -> Document:
    try:
        entry = json.loads(line)
    except UnicodeDecodeError as error:
        return Document(file, number, "", fault=f"is not UTF-8: {error.reason} at {error.start}")
    except json.JSONDecodeError as error:
        return Document(file, number, "", fault=f"is not JSON: {_told(error)}")
    if not isinstance(entry, dict):
        return Document(file, number, "", fault="is no JSON object")
    return _from_values(
        file,
        number,
        entry.get(wanted.column),
        None if wanted.label is None else entry.get(wanted.label),
        wanted,
    )


def _told(error: json.JSONDecodeError) -> str:
    return f"{error.msg.removesuffix(' at')} at place {error.pos}"


def _from_values(file: int, number: int, text: Any, label: Any, wanted: Wanted) -> Document:
    fault = ""
    if not isinstance(text, str):
        fault = f"has no text under '{wanted.column}'"
    elif not text.strip():
        fault = "is empty"
    elif label is not None and not isinstance(label, int):
        fault = f"has the label {label!r}, which is no whole number"
    if fault:
        return Document(file, number, "", fault=fault)
    return Document(file, number, text, UNLABELLED if label is None else label)


def _read_parquet(name: str, path: Path, file: int, wanted: Wanted) -> Iterator[Document]:
    try:
        with pq.ParquetFile(path) as parquet:
            columns = _columns(name, path, parquet.schema_arrow, wanted)
            batches = parquet.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False)
            yield from _from_batches(file, batches, wanted)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise SampleError(f"{name}: {path} is no Parquet file that can be read: {error}") from error


def _read_arrow(name: str, path: Path, file: int, wanted: Wanted) -> Iterator[Document]:
    """Read a stream of Arrow batches, one in memory at a time."""
    try:
        with pa.OSFile(str(path)) as source:
            schema = pa.ipc.read_schema(source)
            columns = _columns(name, path, schema, wanted)
            source.seek(0)
            options = pa.ipc.IpcReadOptions(
                included_fields=[schema.get_field_index(each) for each in columns],
                use_threads=False,
            )
            with pa.ipc.open_stream(source, options=options) as batches:
                yield from _from_batches(file, batches, wanted)
    # Arrow's own errors of reading have no strerror.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SampleError(f"{name}: {path} is no Arrow file that can be read: {error}") from error


def _columns(name: str, path: Path, schema: Any, wanted: Wanted) -> list[str]:
    columns = [each for each in (wanted.column, wanted.label) if each is not None]
    for column in columns:
        if column not in schema.names:
            near = did_you_mean(column, schema.names)
            raise SampleError(
                f"{name}: {path} has no column '{column}'{near or ';'} it has "
                f"{', '.join(schema.names)}"
            )
    return columns


def _from_batches(file: int, batches: Iterable[Any], wanted: Wanted) -> Iterator[Document]:
    number = 0
    for batch in batches:
        labels = batch[wanted.label].to_pylist() if wanted.label else [None] * len(batch)
        for text, label in zip(batch[wanted.column].to_pylist(), labels, strict=True):
            yield _from_values(file, number, text, label, wanted)
            number += 1


READERS: dict[str, Reader] = {
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
# What `datasets` saves; those of a folder are named by it, so they are not looked for.
SAVED_READERS: dict[str, Reader] = {".arrow": _read_arrow}
