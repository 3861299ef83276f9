"""Parquet files of samples, with columns of inputs, ids and labels.

A file, a folder or a glob. Only file metadata and, with a filter, the chosen row numbers stay in
memory; rows come from a bounded number of recently used row groups. Knows no project's own columns:
the recipe names them.
"""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.factories import did_you_mean
from pipeline.samples.batch import UNLABELLED, Indices, SampleBatch, as_indices, name_some
from pipeline.samples.columns import Decoder, choose_decoder
from pipeline.samples.images import image_options
from pipeline.samples.tables.groups import Groups, HeldRowGroups

# Two row groups of a writer's usual 32 MiB; a larger single row group is held alone.
HELD_BYTES = 64 * 2**20
# Files are read in pieces of this size; else a column of a row group is held twice while decoding.
READ_BYTES = 2**20


@dataclass(frozen=True)
class RowGroups:
    """The row groups of all files as one sequence of rows.

    Shapes: starts (G + 1,) for G row groups, ascending, the last being the number of rows; files
        and places (G,).
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    metadata: tuple[Any, ...]
    starts: NDArray[np.int64]
    files: NDArray[np.int32]
    places: NDArray[np.int32]

    def load(self, group: int, columns: tuple[str, ...]) -> Any:
        """Read some columns of one row group as an Arrow table."""
        number = self.files[group]
        path, metadata = self.paths[number], self.metadata[number]
        with pq.ParquetFile(
            path, metadata=metadata, pre_buffer=False, buffer_size=READ_BYTES
        ) as file:
            table = file.read_row_group(
                int(self.places[group]), columns=list(columns), use_threads=False
            )
        return table.combine_chunks()


@dataclass(frozen=True)
class ParquetSamples:
    """Samples that are rows of Parquet files.

    Shapes: chosen (number of samples,), the row numbers a filter left; None means all rows.
    """

    name: str
    class_names: tuple[str, ...] | None
    groups: Groups
    chosen: NDArray[np.int64] | None
    columns: dict[str, str]
    decode: Decoder
    held: HeldRowGroups = field(default_factory=lambda: HeldRowGroups(HELD_BYTES))

    def __len__(self) -> int:
        return int(self.groups.starts[-1]) if self.chosen is None else len(self.chosen)

    def ids(self, start: int, stop: int) -> list[str]:
        """Name the samples of a range, reading only the column of ids."""
        rows = self._rows(np.arange(start, min(stop, len(self))))
        return self._names(rows, self._gather(rows, "id"))

    def labels(self, indices: Indices) -> NDArray[np.int64]:
        """Give the labels of `indices`, reading only the column of labels."""
        rows = self._rows(indices)
        return self._numbers(rows, self._gather(rows, "label"))

    def read(self, indices: Indices) -> SampleBatch:
        """Read samples in the order of `indices`."""
        rows = self._rows(indices)
        table = self._gather(rows, "input", "id", "label")
        ids = self._names(rows, table)
        inputs = self.decode(self.name, ids, table[self.columns["input"]].combine_chunks())
        return SampleBatch(ids, inputs, self._numbers(rows, table))

    def _rows(self, indices: Indices) -> NDArray[np.int64]:
        places = as_indices(indices, len(self))
        return places if self.chosen is None else self.chosen[places]

    def _gather(self, rows: NDArray[np.int64], *roles: str) -> Any:
        """Collect some columns of any rows, in their order, as an Arrow table of B rows."""
        columns = tuple(dict.fromkeys(self.columns[role] for role in roles if role in self.columns))
        if not columns or not len(rows):
            return None
        group_of = np.searchsorted(self.groups.starts, rows, side="right") - 1
        places, tables = [], []
        try:
            for group in np.unique(group_of).tolist():
                place = np.flatnonzero(group_of == group)
                table = self.held.get(self.groups, group, columns)
                tables.append(table.take(rows[place] - self.groups.starts[group]))
                places.append(place)
        except (pa.ArrowException, OSError) as error:
            path = self.groups.paths[self.groups.files[group]]
            raise SampleError(f"{self.name}: {path} cannot be read: {error}") from error
        return pa.concat_tables(tables).take(np.argsort(np.concatenate(places), kind="stable"))

    def _names(self, rows: NDArray[np.int64], table: Any) -> list[str]:
        if "id" not in self.columns:
            return [self._default_id(row) for row in rows.tolist()]
        if table is None:
            return []
        names: list[str | None] = table[self.columns["id"]].cast(pa.string()).to_pylist()
        if None in names:
            row = self._default_id(int(rows[names.index(None)]))
            raise SampleError(
                f"{self.name}: {row} has no value in the id column {self.columns['id']!r}; "
                "every sample needs one"
            )
        return [each for each in names if each is not None]

    def _default_id(self, row: int) -> str:
        starts, files = self.groups.starts, self.groups.files
        number = files[np.searchsorted(starts, row, side="right") - 1]
        first_group = np.searchsorted(files, number)
        return f"{self.groups.names[number]}:{row - starts[first_group]}"

    def _numbers(self, rows: NDArray[np.int64], table: Any) -> NDArray[np.int64]:
        if "label" not in self.columns or table is None:
            return np.full(len(rows), UNLABELLED, dtype=np.int64)
        column = _plain(table[self.columns["label"]].combine_chunks())
        if self.class_names is not None and not pa.types.is_integer(column.type):
            column = pc.index_in(column, value_set=pa.array(self.class_names, type=column.type))
        labels: NDArray[np.int64] = pc.fill_null(column.cast(pa.int64()), UNLABELLED).to_numpy(
            zero_copy_only=False
        )
        return labels


# One keyword a key of the recipe, so that the recipe's table can be passed as it is.
def open_parquet(  # noqa: PLR0913
    *,
    base: Path,
    name: str,
    path: str,
    input: str = "image",
    id: str | None = None,
    label: str | None = None,
    shape: Sequence[int] | None = None,
    dtype: str | None = None,
    filter: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    size: Sequence[int] | None = None,
    mode: str = "RGB",
    fit: str = "crop",
) -> ParquetSamples:
    """Open one Parquet file, or those of a folder or a glob in the order of their names.

    `input`, `id` and `label` name columns; `filter` keeps the rows whose columns equal its values;
    `shape` and `dtype` say what raw bytes are; `size`, `mode` and `fit` are for encoded images.

    Raises: SampleError if a file is missing or broken, a column is missing or of an unusable type,
        a text label is not among `class_names`, or the filter leaves nothing.
    """
    groups, schema = _open_files(name, base, path)
    options = image_options(name, size, mode, fit)
    return open_table(
        name,
        groups,
        schema,
        columns={"input": input, "id": id, "label": label},
        choose=partial(choose_decoder, shape=shape, dtype=dtype, options=options),
        filter=filter,
        class_names=class_names,
    )


def open_table(
    name: str,
    groups: Groups,
    schema: Any,
    *,
    columns: Mapping[str, str | None],
    choose: Callable[[str, Any], Decoder],
    filter: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> ParquetSamples:
    """Make samples of the rows of any groups; `columns` names those of input, id and label.

    `choose` chooses how a column of some Arrow type becomes inputs.

    Raises: SampleError as `open_parquet` does.
    """
    named = {role: column for role, column in columns.items() if column is not None}
    for role, column in [*named.items(), *((f"filter.{key}", key) for key in filter or {})]:
        _check_column(f"{name}.{role}", column, schema)
    samples = ParquetSamples(
        name=name,
        class_names=tuple(class_names) if class_names else None,
        groups=groups,
        chosen=_choose_rows(name, groups, filter) if filter else None,
        columns=named,
        decode=choose(f"{name}.input", schema.field(named["input"]).type),
    )
    if "label" in named:
        _check_labels(samples, schema.field(named["label"]).type)
    return samples


def _open_files(name: str, base: Path, path: str) -> tuple[RowGroups, Any]:
    root, paths = _find_files(base, path)
    if not paths:
        raise SampleError(
            f"{name}.path: there is no Parquet file at {base / path}; "
            "it must be a file, a folder or a glob, relative to the recipe"
        )
    metadata, schemas = [], []
    for each in paths:
        try:
            with pq.ParquetFile(each) as file:
                metadata.append(file.metadata)
                schemas.append(file.schema_arrow)
        except (pa.ArrowException, OSError) as error:
            raise SampleError(
                f"{name}.path: {each} is not a readable Parquet file: {error}"
            ) from error
    for each, schema in zip(paths, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise SampleError(
                f"{name}.path: the columns of {each} differ from those of {paths[0]}; "
                "all files must have the same columns and types"
            )
    return _index_row_groups(paths, root, metadata), schemas[0]


def _find_files(base: Path, path: str) -> tuple[Path, list[Path]]:
    """Find the files, and the folder within which their names are told apart."""
    place = base / path
    if place.is_file():
        return place.parent, [place]
    if place.is_dir():
        return place, sorted(
            p for p in place.rglob("*.parquet") if not p.name.startswith((".", "_"))
        )
    found = sorted(Path(p) for p in glob.glob(str(place), recursive=True) if Path(p).is_file())
    return (Path(os.path.commonpath([p.parent for p in found])) if found else base), found


def _check_column(where: str, column: str, schema: Any) -> None:
    if column not in schema.names:
        near, known = did_you_mean(column, schema.names), ", ".join(schema.names)
        raise SampleError(f"{where}: there is no column {column!r}{near or ';'} there are {known}")


def _choose_rows(name: str, groups: Groups, wanted: Mapping[str, Any]) -> NDArray[np.int64]:
    """Find the rows whose columns equal the wanted values, a row group at a time."""
    columns = tuple(wanted)
    chosen = [np.empty(0, dtype=np.int64)]
    seen: dict[str, set[str]] = {column: set() for column in columns}
    for group, start in enumerate(groups.starts[:-1]):
        table = groups.load(group, columns)
        keep = np.ones(len(table), dtype=bool)
        for column, value in wanted.items():
            found = _plain(table[column].combine_chunks())
            keep &= _equals(f"{name}.filter.{column}", found, value)
            if len(seen[column]) <= 5:
                seen[column] |= {repr(each) for each in pc.unique(found)[:6].to_pylist()}
        chosen.append(start + np.flatnonzero(keep))
    rows = np.concatenate(chosen)
    if not len(rows):
        asked = " and ".join(f"{column} = {value!r}" for column, value in wanted.items())
        held = "; ".join(f"{c} holds {name_some(sorted(v), len(v))}" for c, v in seen.items())
        raise SampleError(f"{name}.filter: no row has {asked}; {held}")
    return rows


def _equals(where: str, column: Any, value: Any) -> NDArray[np.bool_]:
    try:
        scalar = pa.scalar(value, type=column.type)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SampleError(
            f"{where}: {value!r} cannot be compared with a column of {column.type}"
        ) from error
    equal: NDArray[np.bool_] = pc.fill_null(pc.equal(column, scalar), False).to_numpy(
        zero_copy_only=False
    )
    return equal


def _check_labels(samples: ParquetSamples, kind: Any) -> None:
    """Hold text labels to the class names; whole numbers are held to them by the scan."""
    where = f"{samples.name}.label"
    value = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    if pa.types.is_integer(value):
        return
    if not (pa.types.is_string(value) or pa.types.is_large_string(value)):
        raise SampleError(
            f"{where}: must be whole numbers or text; {samples.columns['label']!r} is {kind}"
        )
    if samples.class_names is None:
        raise SampleError(
            f"{where}: its labels are text, so class_names must list the classes in order"
        )
    unknown: dict[str, None] = {}
    step = 65_536
    for start in range(0, len(samples), step):
        rows = samples._rows(np.arange(start, min(start + step, len(samples))))
        names = pc.unique(
            _plain(samples._gather(rows, "label")[samples.columns["label"]].combine_chunks())
        )
        unknown |= dict.fromkeys(set(names.to_pylist()) - {None, *samples.class_names})
    if unknown:
        raise SampleError(
            f"{where}: {name_some(sorted(unknown), len(unknown))} not among class_names "
            f"({', '.join(samples.class_names)}); add them, or mend the labels"
        )


def _plain(column: Any) -> Any:
    return column.dictionary_decode() if isinstance(column.type, pa.DictionaryType) else column


def _index_row_groups(paths: list[Path], root: Path, metadata: list[Any]) -> RowGroups:
    table = [
        (file, place, each.row_group(place).num_rows)
        for file, each in enumerate(metadata)
        for place in range(each.num_row_groups)
        if each.row_group(place).num_rows
    ]
    files, places, counts = np.array(table, dtype=np.int64).reshape(-1, 3).T
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return RowGroups(
        tuple(paths),
        tuple(path.relative_to(root).as_posix() for path in paths),
        tuple(metadata),
        starts,
        files.astype(np.int32),
        places.astype(np.int32),
    )
