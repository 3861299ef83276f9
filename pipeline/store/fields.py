"""What a part holds: named arrays over positions or rows, and the table of its rows.

Describes arrays by name, dtype and shape. Knows neither files nor what the numbers mean.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CacheError

# Fields of parts lie over the first two; what all parts share lies over classes.
AXES = ("positions", "rows", "classes")
DTYPES = (
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
DIGEST_BYTES = 16
UNLABELLED = -1
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

Array = NDArray[Any]


@dataclass(frozen=True)
class Field:
    """One named array of a cache: an entry of `shape` and `dtype` for every position, or every row.

    Raises: CacheError if name, dtype, shape or axis is not one that the format has.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axis: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise CacheError(
                f"field {self.name!r}: a name is 1 to 64 of a-z, 0-9 and _, the first a letter"
            )
        if self.dtype not in DTYPES:
            raise CacheError(
                f"field '{self.name}': dtype {self.dtype!r} is not one of {', '.join(DTYPES)}"
            )
        if self.axis not in AXES:
            raise CacheError(
                f"field '{self.name}': axis {self.axis!r} is not one of {', '.join(AXES)}"
            )
        if not all(type(size) is int and size > 0 for size in self.shape):
            raise CacheError(
                f"field '{self.name}': shape {self.shape} is not a tuple of whole numbers above 0"
            )

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype on disk: little endian whatever the machine."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry."""
        return self.numpy_dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class SampleTable:
    """The rows of one part, in order.

    Shapes: ids, views, labels and positions (N,); digests (N, 16).
    Units:  positions is how many entries of the position axis a row has; label -1 is unlabelled.
    """

    ids: list[str]
    digests: NDArray[np.uint8]
    views: NDArray[np.int32]
    labels: NDArray[np.int64]
    positions: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)
