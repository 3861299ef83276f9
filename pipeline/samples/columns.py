"""How a Parquet column becomes inputs: encoded images, raw bytes of arrays, or lists of numbers.

Works on the Arrow values of one batch at a time; knows nothing of files, row groups or labels.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.samples.images import ImageOptions, decode_images

# (where, ids, Arrow column of B values) -> inputs (B, ...)
Decoder: TypeAlias = Callable[[str, list[str], Any], NDArray[Any]]


def choose_decoder(
    where: str, kind: Any, shape: Sequence[int] | None, dtype: str | None, options: ImageOptions
) -> Decoder:
    """Choose how a column of some Arrow type becomes inputs.

    Raises: SampleError if no input can be made of the type, or shape and dtype do not fit it.
    """
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        # Hugging Face's datasets keep an image as a struct of its bytes and its former path.
        return partial(_decode_struct, options)
    if _is_bytes(kind) and shape is None and not pa.types.is_fixed_size_binary(kind):
        return partial(_decode_encoded, options)
    numbers = _number_type(where, kind, dtype)
    if _is_bytes(kind):
        width = kind.byte_width if pa.types.is_fixed_size_binary(kind) else 0
        extent = tuple(shape) if shape is not None else (width // numbers.itemsize,)
        if width and width != math.prod(extent) * numbers.itemsize:
            wanted = f"{' x '.join(map(str, extent))} {numbers.name}"
            raise SampleError(f"{where}: {width} bytes a row are not {wanted}; mend shape or dtype")
        return partial(_decode_raw, numbers, extent)
    if _is_list(kind) and _is_number(kind):
        return partial(_decode_lists, numbers, None if shape is None else tuple(shape))
    raise SampleError(
        f"{where}: a column of {kind} cannot be an input; it must hold encoded images, raw bytes "
        "or lists of numbers"
    )


def _decode_struct(options: ImageOptions, where: str, ids: list[str], column: Any) -> NDArray[Any]:
    return _decode_encoded(options, where, ids, pc.struct_field(column, "bytes"))


def _decode_encoded(options: ImageOptions, where: str, ids: list[str], column: Any) -> NDArray[Any]:
    return decode_images(where, ids, _present(where, ids, column), options)


def _decode_raw(
    dtype: np.dtype[Any], shape: tuple[int, ...], where: str, ids: list[str], column: Any
) -> NDArray[Any]:
    """Shapes: returns (B, *shape)."""
    rows = _present(where, ids, column)
    wanted = math.prod(shape) * dtype.itemsize
    for sample_id, row in zip(ids, rows, strict=True):
        if len(row) != wanted:
            raise SampleError(
                f"{where}: {sample_id} has {len(row):,} bytes; "
                f"{' x '.join(map(str, shape))} {dtype.name} are {wanted:,}"
            )
    return np.frombuffer(bytearray().join(rows), dtype=dtype).reshape(len(rows), *shape)


def _decode_lists(
    dtype: np.dtype[Any], shape: tuple[int, ...] | None, where: str, ids: list[str], column: Any
) -> NDArray[Any]:
    """Shapes: returns (B, *shape), or (B, length) without a shape."""
    _refuse_missing(where, ids, column)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)  # (B,)
    wanted = lengths[0] if shape is None else math.prod(shape)
    if not (lengths == wanted).all():
        wrong = int(np.flatnonzero(lengths != wanted)[0])
        raise SampleError(
            f"{where}: {ids[wrong]} has {lengths[wrong]} numbers; expected {wanted} as "
            f"{'the first has' if shape is None else 'shape says'}"
        )
    flat = column.flatten()
    if flat.null_count:
        raise SampleError(f"{where}: there are empty values in the lists of {ids[0]} to {ids[-1]}")
    numbers: NDArray[Any] = flat.to_numpy(zero_copy_only=False).astype(dtype)
    return numbers.reshape(len(ids), *(shape or (int(wanted),)))


def _present(where: str, ids: list[str], column: Any) -> list[bytes]:
    _refuse_missing(where, ids, column)
    rows: list[bytes] = column.to_pylist()
    return rows


def _refuse_missing(where: str, ids: list[str], column: Any) -> None:
    if column.null_count:
        missing = column.is_null().to_pylist().index(True)
        raise SampleError(f"{where}: {ids[missing]} has no input")


def _number_type(where: str, kind: Any, dtype: str | None) -> np.dtype[Any]:
    """Choose the dtype of the numbers: as told, as the lists hold, or single bytes."""
    own = kind.value_type.to_pandas_dtype() if _is_list(kind) and _is_number(kind) else "uint8"
    try:
        numbers = np.dtype(dtype or own)
    except TypeError as error:
        raise SampleError(f"{where}: {dtype!r} is no dtype; name one such as 'float32'") from error
    if numbers.kind not in "buif":
        raise SampleError(f"{where}: dtype must be of numbers, such as 'float32'; got {dtype!r}")
    return numbers.newbyteorder("<")


def _is_bytes(kind: Any) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_list(kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_number(kind: Any) -> bool:
    value = kind.value_type
    return bool(pa.types.is_integer(value) or pa.types.is_floating(value))
