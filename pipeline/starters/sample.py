"""Small data for starters, in the form that a user's own would have: of what ships in data/.

Each function writes a folder of its own, and leaves one that is there alone.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pipeline
from pipeline.errors import PipelineError
from pipeline.samples import open_samples
from pipeline.samples.images import encode_png

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Of the images of digits that train, so many are labelled; the others are the unlabelled ones.
LABELLED = 600
# How often each pixel is repeated, so that one can look at the images.
SCALE = 4


def write_images(folder: Path) -> None:
    """Write class folders of PNG files, to train on and to validate on."""
    place = folder / "images"
    if place.exists():
        return
    for split, (images, labels, ids) in _labelled().items():
        for image, label, name in zip(images, labels, ids, strict=True):
            _write_png(place / split / CLASSES[label] / f"{name}.png", image)


def write_unlabelled(folder: Path) -> None:
    """Write a flat folder of PNG files."""
    place = folder / "unlabelled"
    if place.exists():
        return
    images, _, ids = _read("train")
    for image, name in zip(images[LABELLED:], ids[LABELLED:], strict=True):
        _write_png(place / f"{name}.png", image)


def write_arrays(folder: Path) -> None:
    """Write images and labels as .npy files."""
    place = folder / "arrays"
    if place.exists():
        return
    place.mkdir(parents=True)
    for split, (images, labels, _) in _labelled().items():
        np.save(place / f"{split}-inputs.npy", _enlarge(images))
        np.save(place / f"{split}-labels.npy", labels)


def write_text(folder: Path) -> None:
    """Write plain text files, to train on and to validate on."""
    if not (folder / "text").exists():
        shutil.copytree(_shipped() / "shakespeare", folder / "text")


Split = tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]


def _labelled() -> dict[str, Split]:
    images, labels, ids = _read("train")
    train = images[:LABELLED], labels[:LABELLED], ids[:LABELLED]
    return {"train": train, "validation": _read("validation")}


def _read(split: str) -> Split:
    """Read one split of the digits. Shapes: images (N, 1, 8, 8), labels (N,)."""
    samples = open_samples(
        "parquet",
        path=str(_shipped() / "digits.parquet"),
        id="id",
        label="label",
        shape=(1, 8, 8),
        dtype="uint8",
        filter={"split": split},
    )
    read = samples.read(range(len(samples)))
    return read.inputs, read.labels, list(read.ids)


def _enlarge(images: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(images, np.uint8).repeat(SCALE, axis=-2).repeat(SCALE, axis=-1)


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = encode_png(_enlarge(image))
    assert content is not None  # of one channel of bytes it always makes one
    path.write_bytes(content)


def _shipped() -> Path:
    """Find the data that ships with the project.

    Raises: PipelineError where the package alone was installed.
    """
    folder = Path(pipeline.__file__).resolve().parent.parent / "data"
    if not (folder / "digits.parquet").is_file():
        raise PipelineError(
            f"init: {folder} is not there, for this installation is the package alone. Starters "
            "run on data of the project: clone it and install from there (scripts/install)."
        )
    return folder
