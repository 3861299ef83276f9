"""Image files: decoding, and folders of them.

Pixels come out as uint8, channels first. A picture's orientation tag is not applied, as most
teachers were trained without. Knows nothing of augmentation or normalisation.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import SampleError
from pipeline.samples.batch import UNLABELLED, Indices, SampleBatch, as_indices, stack_inputs

SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = ("RGB", "L")
FITS = ("crop", "stretch")
# Pillow decodes outside the GIL; more threads than this only crowd the teacher's own.
DECODE_THREADS = min(8, os.cpu_count() or 1)

# A thumbnail's longer side, in pixels; smaller images are enlarged by whole factors.
LARGEST, SMALLEST = 128, 56


@dataclass(frozen=True)
class ImageOptions:
    """How an encoded image becomes pixels; without a size, all must have the same."""

    size: tuple[int, int] | None
    mode: str
    fit: str


def image_options(where: str, size: Sequence[int] | None, mode: str, fit: str) -> ImageOptions:
    """Check the three options that folders and parquet columns of images share.

    Raises: SampleError naming the option, what was given and what is allowed.
    """
    if mode not in MODES:
        raise SampleError(f'{where}.mode: must be "RGB" or "L"; got {mode!r}')
    if fit not in FITS:
        raise SampleError(f'{where}.fit: must be "crop" or "stretch"; got {fit!r}')
    if size is not None and not (len(size) == 2 and min(size) > 0):
        raise SampleError(
            f"{where}.size: must be [height, width] in pixels, such as [224, 224]; got {list(size)}"
        )
    return ImageOptions(None if size is None else (size[0], size[1]), mode, fit)


def decode_images(
    where: str, ids: Sequence[str], sources: Sequence[bytes | Path], options: ImageOptions
) -> NDArray[np.uint8]:
    """Decode PNG or JPEG images with a few threads.

    Shapes: returns (B, channels, height, width).
    Raises: SampleError naming the image that cannot be read, or that has another size than the
        first.
    """

    def decode(sample_id: str, source: bytes | Path) -> NDArray[Any]:
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return _pixels(image, options)
        # Pillow's decoders raise a dozen unrelated types on broken bytes.
        except Exception as error:
            raise SampleError(f"{where}: {sample_id} is not a readable image: {error}") from error

    if len(ids) == 1:
        return decode(ids[0], sources[0])[None]  # (1, channels, height, width)
    # A pool a call: one kept in the dataset could neither be pickled nor live through a fork.
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        return stack_inputs(where, ids, list(pool.map(decode, ids, sources)))


def _pixels(image: Image.Image, options: ImageOptions) -> NDArray[np.uint8]:
    """Shapes: returns (channels, height, width)."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"pixels of mode {image.mode} do not fit 8 bits; save it with 8-bit channels"
        )
    # Pillow cannot drop the transparency of a palette in one step.
    flat = image.convert("RGBA") if image.mode == "P" else image
    fitted = _fit(flat.convert(options.mode), options)
    pixels = np.array(fitted, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _fit(image: Image.Image, options: ImageOptions) -> Image.Image:
    if options.size is None:
        return image
    height, width = options.size
    if options.fit == "stretch":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    scale = max(width / image.width, height / image.height)
    whole = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    resized = image.resize(whole, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class ImageFolder:
    """Images of a folder; their paths in it are the ids, held as one Arrow column.

    Shapes: paths and classes (number of samples,); a class of -1 means unlabelled.
    """

    name: str
    class_names: tuple[str, ...] | None
    root: Path
    options: ImageOptions
    paths: Any
    classes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.classes)

    def ids(self, start: int, stop: int) -> list[str]:
        """Name the samples of a range by their paths within the folder."""
        names: list[str] = self.paths[start:stop].to_pylist()
        return names

    def labels(self, indices: Indices) -> NDArray[np.int64]:
        """Give the classes of the folders that hold the images."""
        return self.classes[as_indices(indices, len(self))].astype(np.int64)

    def read(self, indices: Indices) -> SampleBatch:
        """Decode the images at `indices`."""
        places = as_indices(indices, len(self))
        ids: list[str] = self.paths.take(places).to_pylist()
        files = [self.root / sample_id for sample_id in ids]
        return SampleBatch(
            ids, decode_images(self.name, ids, files, self.options), self.labels(places)
        )


def open_images(
    *,
    base: Path,
    name: str,
    path: str,
    size: Sequence[int] | None = None,
    mode: str = "RGB",
    fit: str = "crop",
    class_names: Sequence[str] | None = None,
) -> ImageFolder:
    """Open a folder with one folder of images a class, or a flat unlabelled folder of images.

    The classes are the sorted names of the folders, unless `class_names` gives them.

    Raises: SampleError if there is no such folder, it holds no image, or it mixes both layouts.
    """
    options = image_options(name, size, mode, fit)
    root = base / path
    if not root.is_dir():
        raise SampleError(
            f"{name}.path: there is no folder {root}; paths are relative to the recipe"
        )
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    flat = _image_paths(root, "") if not folders else sorted(filter(_is_image, os.listdir(root)))
    if flat and folders:
        raise SampleError(
            f"{name}.path: {root} holds both images ({_name_first(flat)}) and folders "
            f"({_name_first(folders)}); it must be one folder a class, or images alone"
        )
    classes = _class_table(name, folders, class_names)
    found = [_image_paths(root, folder) for folder in classes] if folders else [flat]
    counts = [len(paths) for paths in found]
    if not sum(counts):
        raise SampleError(
            f"{name}.path: {root} holds no image; files must end in {', '.join(SUFFIXES)}"
        )
    labels = list(classes.values()) if folders else [UNLABELLED]
    return ImageFolder(
        name=name,
        class_names=_names(folders, class_names),
        root=root,
        options=options,
        paths=pa.concat_arrays([pa.array(paths, type=pa.string()) for paths in found]),
        classes=np.repeat(np.array(labels, dtype=np.int32), counts),
    )


def _name_first(names: Sequence[str]) -> str:
    return f"{names[0]}, ..." if len(names) > 1 else names[0]


def _names(folders: list[str], class_names: Sequence[str] | None) -> tuple[str, ...] | None:
    names = folders if class_names is None else class_names
    return tuple(names) or None


def _class_table(
    name: str, folders: list[str], class_names: Sequence[str] | None
) -> dict[str, int]:
    """Number the class folders, by `class_names` where it is given."""
    if class_names is None:
        return {folder: number for number, folder in enumerate(folders)}
    unknown = [folder for folder in folders if folder not in class_names]
    if unknown:
        raise SampleError(
            f"{name}.class_names: the folder {unknown[0]!r} is none of them; "
            f"allowed are {', '.join(class_names)}; add it, or move the folder away"
        )
    return {folder: list(class_names).index(folder) for folder in folders}


def _is_image(file_name: str) -> bool:
    return file_name.lower().endswith(SUFFIXES) and not file_name.startswith(".")


def _image_paths(root: Path, folder: str) -> list[str]:
    """List the images below `root / folder`, as sorted POSIX paths within `root`."""
    found = []
    for place, folders, files in os.walk(root / folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = Path(place).relative_to(root)
        found += [(within / file).as_posix() for file in files if _is_image(file)]
    return sorted(found)


def encode_png(image: NDArray[Any]) -> bytes | None:
    """Make a PNG of an image of 8 bits; None of anything else. Shapes: image (1 or 3, H, W)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
        return None
    channels_last = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
    picture = Image.fromarray(np.ascontiguousarray(channels_last))
    if max(picture.size) < SMALLEST:
        factor = SMALLEST // max(picture.size)
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    picture.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
