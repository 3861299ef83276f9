"""Fields as a Zarr v3 group: its documents by zarr-python, its chunks straight to and from files.

Doing without zarr where only chunks are moved is several times faster, and takes each file once
and whole, which is what checksums and object stores want. Knows zarr.json as far as FORMAT.md
allows it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.store.fields import Array, Field
from pipeline.store.files import Load
from pipeline.store.places import Content

# Large enough that opening a file costs nothing beside reading it.
CHUNK_BYTES = 64 * 2**20
_LEVELS = {"lz4": 5, "zstd": 1}
_BYTES_CODECS = (
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "bytes"},
)
# With dots a chunk needs no folders of its own, each of which would be made and flushed.
_SEPARATORS = (".", "/")


@dataclass(frozen=True)
class _Layout:
    chunk_entries: int
    is_compressed: bool
    separator: str


def encode(
    stem: str, fields: Sequence[Field], arrays: Mapping[str, Array], compression: str
) -> Iterator[Content]:
    """Make the files of `stem.zarr`.

    Shapes: arrays[name] (entries, *field.shape).
    Source: FORMAT.md, section 7.
    """
    layouts = tuple(
        (field, len(arrays[field.name]), _chunk_entries(field, len(arrays[field.name])))
        for field in fields
    )
    for path, document in _documents(layouts, compression).items():
        yield f"{stem}.zarr/{path}", memoryview(document)
    for field, entries, step in layouts:
        array = np.ascontiguousarray(arrays[field.name], field.numpy_dtype)
        for index, start in enumerate(range(0, entries, step)):
            chunk = _encode_chunk(array[start : start + step], step, compression)
            key = _chunk_key(field, index, _SEPARATORS[0])
            yield f"{stem}.zarr/{field.name}/{key}", chunk


def _chunk_entries(field: Field, entries: int) -> int:
    return max(1, min(entries, CHUNK_BYTES // field.entry_bytes))


def _chunk_key(field: Field, index: int, separator: str) -> str:
    return separator.join(["c", str(index), *("0" for _ in field.shape)])


def _encode_chunk(entries: Array, step: int, compression: str) -> memoryview:
    if len(entries) < step:  # the last chunk is padded to full size
        padding = np.zeros((step - len(entries), *entries.shape[1:]), entries.dtype)
        entries = np.concatenate([entries, padding])
    if compression == "none":
        return entries.reshape(-1).view(np.uint8).data
    from numcodecs import Blosc

    codec = Blosc(cname=compression, clevel=_LEVELS[compression], shuffle=Blosc.SHUFFLE)
    return memoryview(codec.encode(entries))


@lru_cache(maxsize=8)
def _documents(layouts: tuple[tuple[Field, int, int], ...], compression: str) -> dict[str, bytes]:
    """Let zarr-python write the zarr.json of a group and its arrays; parts share them.

    It takes some 20 ms of a core that the caller may need, so it is asked once for each layout, and
    chunks, which are raw or one Blosc frame, are written without it.
    """
    import zarr
    from zarr.codecs import BloscCname, BloscCodec, BloscShuffle

    codec = None
    if compression != "none":
        level = _LEVELS[compression]
        codec = BloscCodec(
            cname=BloscCname(compression), clevel=level, shuffle=BloscShuffle.shuffle
        )
    with TemporaryDirectory() as folder:
        root = Path(folder)
        group = zarr.open_group(root, mode="w", zarr_format=3)
        for field, entries, step in layouts:
            group.create_array(
                field.name,
                shape=(entries, *field.shape),
                chunks=(step, *field.shape),
                dtype=field.numpy_dtype,
                compressors=codec,
                fill_value=0,
                chunk_key_encoding={"name": "default", "separator": _SEPARATORS[0]},
                dimension_names=[field.axis, *(None for _ in field.shape)],
            )
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("zarr.json"))
        }


def read(
    load: Load, stem: str, fields: Sequence[Field], lengths: Mapping[str, int]
) -> dict[str, Array]:
    """Read fields of `stem.zarr` into fresh arrays.

    Shapes: each (lengths[field.axis], *field.shape).
    Raises: CorruptPart if zarr.json or a chunk is not what the format says.
    """
    load(f"{stem}.zarr/zarr.json")  # says nothing that the plan does not, but must not be damaged
    return {
        field.name: _read_array(load, f"{stem}.zarr/{field.name}", field, lengths[field.axis])
        for field in fields
    }


def _read_array(load: Load, root: str, field: Field, entries: int) -> Array:
    layout = _read_layout(load, f"{root}/zarr.json", field, entries)
    step = layout.chunk_entries
    if load.mapped and not layout.is_compressed and entries <= step:
        return _map_raw(
            load, f"{root}/{_chunk_key(field, 0, layout.separator)}", field, entries, step
        )
    array = np.empty((entries, *field.shape), field.numpy_dtype)
    for index, start in enumerate(range(0, entries, step)):
        flat = array[start : start + step].reshape(-1).view(np.uint8)
        read_chunk = _read_compressed if layout.is_compressed else _read_raw
        path = f"{root}/{_chunk_key(field, index, layout.separator)}"
        read_chunk(load, path, flat, step * field.entry_bytes)
    return array


def _read_raw(load: Load, path: str, into: NDArray[np.uint8], chunk_bytes: int) -> None:
    content = load(path, into)
    if content.nbytes != chunk_bytes:
        raise load.fault(path, f"{content.nbytes} bytes; a chunk has {chunk_bytes}")
    if content is not into:  # the last chunk is padded to full size
        into[:] = content[: into.nbytes]


def _map_raw(load: Load, path: str, field: Field, entries: int, step: int) -> Array:
    content = load(path)
    if content.nbytes != step * field.entry_bytes:
        raise load.fault(path, f"{content.nbytes} bytes; a chunk has {step * field.entry_bytes}")
    array: Array = content[: entries * field.entry_bytes].view(field.numpy_dtype)
    return array.reshape(entries, *field.shape)


def _read_compressed(load: Load, path: str, into: NDArray[np.uint8], chunk_bytes: int) -> None:
    from numcodecs import Blosc

    content = load(path)
    target = into if into.nbytes == chunk_bytes else np.empty(chunk_bytes, np.uint8)
    # Bytes 4 to 8 of a Blosc frame are the length it decodes to.
    decoded_bytes = int.from_bytes(content[4:8].tobytes(), "little")
    if decoded_bytes != chunk_bytes:
        raise load.fault(path, f"decodes to {decoded_bytes} bytes; a chunk has {chunk_bytes}")
    try:
        Blosc().decode(content, target)
    except (RuntimeError, ValueError) as error:
        raise load.fault(path, f"cannot be decoded: {error}") from error
    if target is not into:
        into[:] = target[: into.nbytes]


def _read_layout(load: Load, path: str, field: Field, entries: int) -> _Layout:
    layout = _layout_of(load(path).tobytes(), field, entries)
    if isinstance(layout, str):
        raise load.fault(path, layout)
    return layout


@lru_cache(maxsize=64)
def _layout_of(content: bytes, field: Field, entries: int) -> _Layout | str:
    """Read how an array lies, or say what is wrong; parts share their zarr.json, byte for byte."""
    try:
        document = json.loads(content)
        chunk_shape = document["chunk_grid"]["configuration"]["chunk_shape"]
        first, *others = document["codecs"]
        names = [codec["name"] for codec in others]
        found = (document["data_type"], document["shape"], chunk_shape[1:])
    except (ValueError, KeyError, TypeError) as error:
        return f"is not the zarr.json of an array ({error!r})"
    wanted = (field.dtype, [entries, *field.shape], list(field.shape))
    if found != wanted:
        return f"dtype, shape and chunk are {found}; they must be {wanted}"
    if first not in _BYTES_CODECS or names not in ([], ["blosc"]):
        return "its codecs are not those of the format (bytes, blosc)"
    keys = document.get("chunk_key_encoding")
    separators = [each for each in _SEPARATORS if keys == _default_keys(each)]
    if not separators:
        return f"its chunks are named by {keys}; the format has the default names"
    if type(chunk_shape[0]) is not int or chunk_shape[0] < 1:
        return f"{chunk_shape[0]} entries in a chunk; it must be 1 or more"
    return _Layout(chunk_shape[0], is_compressed=bool(names), separator=separators[0])


def _default_keys(separator: str) -> dict[str, Any]:
    return {"name": "default", "configuration": {"separator": separator}}
