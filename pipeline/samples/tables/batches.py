"""Record batches of Arrow stream files, read one at a time, wherever they lie.

Only where each batch begins stays in memory. Knows no columns of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import SampleError


@dataclass(frozen=True)
class Batches:
    """The record batches of all files as one sequence of rows.

    Shapes: starts (G + 1,) for G batches, ascending, the last being the number of rows; files and
        offsets (G,).
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    schema: Any
    starts: NDArray[np.int64]
    files: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def load(self, group: int, columns: tuple[str, ...]) -> Any:
        """Read some columns of one batch as an Arrow table."""
        with pa.memory_map(str(self.paths[self.files[group]])) as source:
            source.seek(int(self.offsets[group]))
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), self.schema)
            return pa.Table.from_batches([batch.select(list(columns))])


def index_batches(name: str, files: Sequence[Path], names: Sequence[str]) -> Batches:
    """Find where every batch of every file begins.

    Raises: SampleError if a file is broken, or its columns differ from the first's.
    """
    table, schemas = list[tuple[int, int, int]](), list[Any]()
    for number, path in enumerate(files):
        try:
            with pa.memory_map(str(path)) as source:
                schemas.append(pa.ipc.read_schema(source))
                while (found := _next_batch(source, schemas[-1])) is not None:
                    table.append((number, *found))
        except (pa.ArrowException, OSError) as error:
            raise SampleError(f"{name}.path: {path} cannot be read: {error}") from error
        if not schemas[-1].equals(schemas[0]):
            raise SampleError(
                f"{name}.path: the columns of {path} differ from those of {files[0]}; "
                "all files must have the same columns and types"
            )
    numbers, offsets, counts = np.array(table, dtype=np.int64).reshape(-1, 3).T
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Batches(
        tuple(files), tuple(names), schemas[0], starts, numbers.astype(np.int32), offsets
    )


def _next_batch(source: Any, schema: Any) -> tuple[int, int] | None:
    """Give the offset and the rows of the next batch that has any; mapped, so none is read."""
    while True:
        offset = source.tell()
        if offset >= source.size():
            return None
        try:
            message = pa.ipc.read_message(source)
        except EOFError:  # the mark at the end of a stream
            return None
        rows = pa.ipc.read_record_batch(message, schema).num_rows
        if rows:
            return offset, rows
