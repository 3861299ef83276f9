"""Arrays in files: `.npy` and `.npz` of NumPy, and the `idx` files of MNIST and its family.

Plain files are read row by row, so memory does not grow with them. Held in memory are labels and
ids that are few bytes, `.npz` members and gzipped `idx` files, which cannot be read in part.
Nothing is ever unpickled.
"""

import gzip
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.factories import did_you_mean
from pipeline.samples.batch import UNLABELLED, Indices, SampleBatch, as_indices, spell
from pipeline.samples.tables.rows import FileRows, Rows, hold_rows

IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# Labels and ids of no more are read at once: a call for each of a batch takes five times as long.
HELD_BYTES = 2**20


@dataclass(frozen=True)
class ArraySamples:
    """Inputs with optional labels and ids, an array each; the row number is the default id."""

    name: str
    class_names: tuple[str, ...] | None
    inputs: Rows
    label_rows: Rows | None
    id_rows: Rows | None

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def ids(self, start: int, stop: int) -> list[str]:
        """Name the samples of a range."""
        return spell(self._names(np.arange(start, min(stop, len(self)))))

    def labels(self, indices: Indices) -> NDArray[np.int64]:
        """Give the labels of `indices`."""
        return self._labels(as_indices(indices, len(self)))

    def _labels(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.label_rows is None:
            return np.full(len(places), UNLABELLED, dtype=np.int64)
        return self._take(self.label_rows, places).astype(np.int64)

    def read(self, indices: Indices) -> SampleBatch:
        """Read samples in the order of `indices`."""
        places = as_indices(indices, len(self))
        stored = self._take(self.inputs, places)
        inputs = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        return SampleBatch(self._names(places), inputs, self._labels(places))

    def hold(self, indices: NDArray[np.int64], asked: int) -> "ArraySamples":
        """Give the same samples, of which those at `indices` are in memory if that is worth it."""
        inputs = hold_rows(self.inputs, self._take, indices, asked)
        labels, ids = (
            None if rows is None else hold_rows(rows, self._take, indices, asked)
            for rows in (self.label_rows, self.id_rows)
        )
        return replace(self, inputs=inputs, label_rows=labels, id_rows=ids)

    def _names(self, places: NDArray[np.int64]) -> NDArray[Any]:
        # Whoever gave the places may do something else with them, and nobody asked for ids yet.
        return places.copy() if self.id_rows is None else self._take(self.id_rows, places)

    def _take(self, rows: Rows, places: NDArray[np.int64]) -> NDArray[Any]:
        return _read_rows(self.name, rows, places)


def _read_rows(name: str, rows: Rows, places: NDArray[np.int64]) -> NDArray[Any]:
    """Take some rows. Shapes: places (n,); returns (n, ...).

    Raises: SampleError if their file cannot be read.
    """
    try:
        return rows[places]
    except OSError as error:
        raise SampleError(f"{name}: {error}; restore the file") from error


def open_arrays(
    *,
    base: Path,
    name: str,
    inputs: str,
    labels: str | None = None,
    ids: str | None = None,
    path: str | None = None,
    class_names: Sequence[str] | None = None,
) -> ArraySamples:
    """Open `.npy` files for inputs, labels and ids; or, with `path`, members of one `.npz`.

    Raises: SampleError if a file or member is missing, holds objects, or the lengths differ.
    """
    parts = {"inputs": inputs, "labels": labels, "ids": ids}
    wanted = {key: place for key, place in parts.items() if place is not None}
    if path is None:
        rows = {key: _open_npy(f"{name}.{key}", base / place) for key, place in wanted.items()}
    else:
        rows = _open_npz(name, base / path, wanted)
    return _array_samples(name, rows, class_names)


def open_idx(
    *,
    base: Path,
    name: str,
    images: str,
    labels: str | None = None,
    class_names: Sequence[str] | None = None,
) -> ArraySamples:
    """Open idx files of images and labels; gzipped ones are decompressed into memory.

    Shapes: images come out as uint8 (B, 1, height, width).
    Raises: SampleError if a file is missing, is not idx, or is shorter or longer than its header
        says.
    Source: the file format section of http://yann.lecun.com/exdb/mnist/
    """
    pictures = _open_idx_file(f"{name}.images", base / images)
    if len(pictures.shape) != 3 or pictures.dtype != np.uint8:
        raise SampleError(
            f"{name}.images: {base / images} holds {pictures.dtype} of shape {pictures.shape}; "
            "images must be uint8 of (number, height, width)"
        )
    rows = {"inputs": _with_channel(pictures)}
    if labels is not None:
        rows["labels"] = _open_idx_file(f"{name}.labels", base / labels)
    return _array_samples(name, rows, class_names)


def _array_samples(
    name: str, rows: dict[str, Rows], class_names: Sequence[str] | None
) -> ArraySamples:
    rows = {key: each if key == "inputs" else _hold(name, each) for key, each in rows.items()}
    inputs, labels, ids = rows["inputs"], rows.get("labels"), rows.get("ids")
    if inputs.dtype.kind not in "buif":
        raise SampleError(f"{name}.inputs: must be numbers; got {inputs.dtype}")
    if not inputs.shape:
        raise SampleError(f"{name}.inputs: must have a row a sample; got a single number")
    if labels is not None and labels.dtype.kind not in "ui":
        raise SampleError(f"{name}.labels: must be whole numbers; got {labels.dtype}")
    if ids is not None and ids.dtype.kind not in "USui":
        raise SampleError(f"{name}.ids: must be text or whole numbers; got {ids.dtype}")
    for key in ("labels", "ids"):
        if key in rows and rows[key].shape != inputs.shape[:1]:
            raise SampleError(
                f"{name}.{key}: has shape {rows[key].shape}, but there are {inputs.shape[0]:,} "
                f"inputs; it must be ({inputs.shape[0]},)"
            )
    return ArraySamples(name, tuple(class_names) if class_names else None, inputs, labels, ids)


def _hold(name: str, rows: Rows) -> Rows:
    """Read rows at once where they are few bytes."""
    if isinstance(rows, np.ndarray) or math.prod(rows.shape) * rows.dtype.itemsize > HELD_BYTES:
        return rows
    return _read_rows(name, rows, np.arange(rows.shape[0]))


def _open_npy(where: str, path: Path) -> Rows:
    _check_file(where, path)
    if zipfile.is_zipfile(path):
        raise SampleError(f"{where}: {path} is not a .npy file; for a .npz file give its path too")
    try:
        # The map is dropped at once: NumPy parses every version of the header on the way.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise SampleError(
            f"{where}: {path} is not a readable .npy file: {error}; restore it, or save it again"
        ) from error
    if mapped.ndim > 1 and not mapped.flags.c_contiguous:
        raise SampleError(
            f"{where}: {path} is stored in Fortran order, so no row lies in one piece; "
            "save numpy.ascontiguousarray of it"
        )
    return FileRows(path, int(mapped.offset), mapped.shape, mapped.dtype)


def _open_npz(name: str, path: Path, wanted: dict[str, str]) -> dict[str, Rows]:
    _check_file(f"{name}.path", path)
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive; for .npy files leave path out")
        with np.load(path, allow_pickle=False) as members:
            for key, member in wanted.items():
                if member not in members:
                    near = did_you_mean(member, members)
                    raise SampleError(
                        f"{name}.{key}: {path} has no member {member!r}{near or ';'} "
                        f"it holds {', '.join(members)}"
                    )
            return {key: members[member] for key, member in wanted.items()}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise SampleError(
            f"{name}.path: {path} is not a readable .npz file: {error}; "
            "restore it, or save it again"
        ) from error


def _open_idx_file(where: str, path: Path) -> Rows:
    _check_file(where, path)
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            shape, dtype, offset = _idx_header(file.read(4 + 4 * 255))
            content = np.frombuffer(_gunzip(path), dtype=np.uint8)[offset:] if zipped else None
    except (ValueError, OSError, EOFError) as error:
        raise SampleError(
            f"{where}: {path} is not a readable idx file: {error}; fetch it again"
        ) from error
    size = path.stat().st_size - offset if content is None else len(content)
    needed = int(np.prod(shape)) * dtype.itemsize
    if size != needed:
        raise SampleError(
            f"{where}: {path} holds {size:,} bytes after its header, which promises {needed:,} "
            f"({' x '.join(map(str, shape))} {dtype.name}); fetch the file again"
        )
    return (
        FileRows(path, offset, shape, dtype)
        if content is None
        else content.view(dtype).reshape(shape)
    )


def _gunzip(path: Path) -> bytes:
    with gzip.open(path) as file:
        return file.read()


def _idx_header(head: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Parse the shape, the dtype and the length of an idx header."""
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_DTYPES or not head[3]:
        raise ValueError(f"it begins with {head[:4].hex(' ') or 'nothing'}, not 00 00 08 and so on")
    offset = 4 + 4 * head[3]
    if len(head) < offset:
        raise ValueError("its header is cut off")
    shape = np.frombuffer(head[4:offset], dtype=">u4").tolist()
    return tuple(shape), np.dtype(IDX_DTYPES[head[2]]), offset


def _with_channel(images: Rows) -> Rows:
    shape = (images.shape[0], 1, *images.shape[1:])
    if isinstance(images, FileRows):
        return FileRows(images.path, images.offset, shape, images.dtype)
    assert isinstance(images, np.ndarray)
    return images.reshape(shape)


def _check_file(where: str, path: Path) -> None:
    if not path.is_file():
        raise SampleError(f"{where}: there is no file {path}; paths are relative to the recipe")
