"""Tables as Parquet: fields as columns, one table row an entry, and the samples of a part.

An entry of several numbers is one fixed-size binary value: Parquet has no 16-bit numbers in lists,
and lists are some twenty times slower. Knows columns, not what the numbers mean.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.store.fields import DIGEST_BYTES, UNLABELLED, Array, Field, SampleTable
from pipeline.store.files import Load
from pipeline.store.places import Content

ROW_GROUP_BYTES = 64 * 2**20
_CODECS = {"none": "NONE", "lz4": "LZ4", "zstd": "ZSTD"}
_DIGEST = Field("digest", "uint8", (DIGEST_BYTES,), "rows")
# Which axis's fields lie in which file.
_ENDINGS = {"positions": ".parquet", "rows": ".rows.parquet", "classes": ".classes.parquet"}


def encode(
    stem: str, fields: Sequence[Field], arrays: Mapping[str, Array], compression: str
) -> Iterator[Content]:
    """Make `stem.parquet` and, if fields lie over rows, `stem.rows.parquet`.

    Shapes: arrays[name] (entries, *field.shape).
    Source: FORMAT.md, section 7.
    """
    import pyarrow as pa

    for axis, ending in _ENDINGS.items():
        chosen = [field for field in fields if field.axis == axis]
        if not chosen:
            continue
        table = pa.Table.from_arrays(
            [_column(field, arrays[field.name]) for field in chosen],
            schema=pa.schema([_schema_field(field) for field in chosen]),
        )
        entries = ROW_GROUP_BYTES // sum(field.entry_bytes for field in chosen)
        yield f"{stem}{ending}", _encode_table(table, _CODECS[compression], max(1, entries))


def read(
    load: Load, stem: str, fields: Sequence[Field], lengths: Mapping[str, int]
) -> dict[str, Array]:
    """Read fields of `stem.parquet` and `stem.rows.parquet` into fresh arrays.

    Shapes: each (lengths[field.axis], *field.shape).
    Raises: CorruptPart if a column is missing or is not what the format says.
    """
    arrays = {}
    for axis, ending in _ENDINGS.items():
        chosen = [field for field in fields if field.axis == axis]
        if chosen:
            path = f"{stem}{ending}"
            table = _read_table(load, path, [_schema_field(field) for field in chosen])
            _check_length(load, path, table, lengths[axis])
            arrays.update({field.name: _entries(table[field.name], field) for field in chosen})
    return arrays


def encode_samples(samples: SampleTable) -> memoryview:
    """Make the file of a part's samples table.

    Source: FORMAT.md, section 7.1.
    """
    import pyarrow as pa

    columns = [
        pa.array(samples.ids, pa.string()),
        _column(_DIGEST, samples.digests),
        pa.array(samples.views),
        pa.array(samples.labels, mask=samples.labels == UNLABELLED),
        pa.array(samples.positions),
    ]
    table = pa.Table.from_arrays(columns, schema=_samples_schema())
    return _encode_table(table, "ZSTD", max(1, len(samples)))


def read_samples(load: Load, path: str, rows: int) -> SampleTable:
    """Read the samples table of a part of `rows` rows.

    Raises: CorruptPart if it has other columns or another number of rows.
    """
    # A process that ends soon after Arrow's own threads were used may abort on its way out: 4 of 14
    # that read one such table did, none of 24 without; so small a table gains nothing of them.
    table = _read_table(load, path, list(_samples_schema()), use_threads=False)
    _check_length(load, path, table, rows)
    labels = table["label"].fill_null(UNLABELLED)
    return SampleTable(
        ids=table["id"].to_pylist(),
        digests=_entries(table["digest"], _DIGEST),
        views=_entries(table["view"], Field("view", "int32", (), "rows")),
        labels=_entries(labels, Field("label", "int64", (), "rows")),
        positions=_entries(table["positions"], Field("positions", "int32", (), "rows")),
    )


def _samples_schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("digest", pa.binary(DIGEST_BYTES), nullable=False),
            pa.field("view", pa.int32(), nullable=False),
            pa.field("label", pa.int64()),
            pa.field("positions", pa.int32(), nullable=False),
        ]
    )


def _schema_field(field: Field) -> Any:
    import pyarrow as pa

    if not field.shape:
        return pa.field(field.name, pa.from_numpy_dtype(field.dtype), nullable=False)
    metadata = {"dtype": field.dtype, "shape": json.dumps(field.shape)}
    return pa.field(field.name, pa.binary(field.entry_bytes), nullable=False, metadata=metadata)


def _column(field: Field, array: Array) -> Any:
    import pyarrow as pa

    if not field.shape:
        return pa.array(array)
    buffer = pa.py_buffer(np.ascontiguousarray(array))
    return pa.Array.from_buffers(pa.binary(field.entry_bytes), len(array), [None, buffer])


def _encode_table(table: Any, codec: str, row_group_size: int) -> memoryview:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pa.BufferOutputStream()
    pq.write_table(
        table,
        file,
        row_group_size=row_group_size,
        compression=codec,
        use_dictionary=False,
        write_statistics=False,
    )
    return memoryview(file.getvalue())


def _read_table(load: Load, path: str, columns: Sequence[Any], *, use_threads: bool = True) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = load(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(content)))
        _check_columns(load, path, file.schema_arrow, columns)
        table = file.read([column.name for column in columns], use_threads=use_threads)
    except (pa.ArrowException, OSError) as error:
        raise load.fault(path, f"cannot be decoded: {error}") from error
    for column in columns:
        if table[column.name].null_count and not column.nullable:
            raise load.fault(path, f"column '{column.name}' has nulls; it must have none")
    return table


def _check_columns(load: Load, path: str, schema: Any, columns: Sequence[Any]) -> None:
    for wanted in columns:
        if wanted.name not in schema.names:
            raise load.fault(path, f"has no column '{wanted.name}'")
        found = schema.field(wanted.name)
        is_described = (wanted.metadata or {}).items() <= (found.metadata or {}).items()
        if found.type != wanted.type or not is_described:
            raise load.fault(
                path,
                f"column '{wanted.name}' is {found.type} {found.metadata or ''}; "
                f"it must be {wanted.type} {wanted.metadata or ''}",
            )


def _check_length(load: Load, path: str, table: Any, entries: int) -> None:
    if len(table) != entries:
        raise load.fault(path, f"{len(table)} table rows; it must have {entries}")


def _entries(column: Any, field: Field) -> Array:
    """Copy a column out of Arrow's read-only chunks: one array, writable."""
    entries = np.empty((len(column), *field.shape), field.numpy_dtype)
    flat = entries.reshape(-1).view(np.uint8)
    start = 0
    for chunk in column.chunks:
        size = len(chunk) * field.entry_bytes
        if size:
            first = chunk.offset * field.entry_bytes
            content = np.frombuffer(chunk.buffers()[1], np.uint8, count=size, offset=first)
            flat[start : start + size] = content
        start += size
    return entries
