"""How are arrays laid out in files? Each module is one way, with an encode and a read function.

A backend gets arrays that the caller has checked against the fields, and hands back the content of
files; `load` gives it files that were checked against the record. It knows nothing of parts or
commits, and touches no disk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.store.backends import parquet, zarr
from pipeline.store.fields import Array, Field
from pipeline.store.files import Load
from pipeline.store.places import Content


@dataclass(frozen=True)
class Backend:
    """Turn arrays into files whose paths begin with a stem; read them back by `load`.

    `encode(stem, fields, arrays, compression)` yields paths and contents; `read(load, stem, fields,
    lengths)`, where `lengths` is the number of entries on each axis.
    """

    encode: Callable[[str, Sequence[Field], Mapping[str, Array], str], Iterator[Content]]
    read: Callable[[Load, str, Sequence[Field], Mapping[str, int]], dict[str, Array]]


BACKENDS = {
    "zarr": Backend(zarr.encode, zarr.read),
    "parquet": Backend(parquet.encode, parquet.read),
}
