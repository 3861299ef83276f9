"""How are arrays laid out in files? Each module is one way, with a write and a read function.

A backend gets arrays that the caller has checked against the fields, and hands back what it finds;
`load` gives it files that were checked against the record. It knows nothing of parts or commits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.store.backends import parquet, zarr
from pipeline.store.fields import Array, Field
from pipeline.store.files import Load


@dataclass(frozen=True)
class Backend:
    """Write arrays below a folder under names that begin with a stem; read them back by `load`.

    `write(folder, stem, fields, arrays, compression)`; `read(load, stem, fields, lengths)`, where
    `lengths` is the number of entries on each axis.
    """

    write: Callable[[Path, str, Sequence[Field], Mapping[str, Array], str], None]
    read: Callable[[Load, str, Sequence[Field], Mapping[str, int]], dict[str, Array]]


BACKENDS = {
    "zarr": Backend(zarr.write, zarr.read),
    "parquet": Backend(parquet.write, parquet.read),
}
