"""A folder that `Dataset.save_to_disk` of `datasets` made: its splits, its files, its class names.

Reads the JSON beside the Arrow files, and nothing of what they hold.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import SampleError
from pipeline.factories import did_you_mean

SPLITS_FILE, STATE_FILE, INFO_FILE = "dataset_dict.json", "state.json", "dataset_info.json"

# What closes an Arrow stream: a continuation of 0 bytes.
END_MARK = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True)
class Saved:
    """One saved split: its Arrow files in order, and what is known of its columns."""

    folder: Path
    files: tuple[Path, ...]
    features: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """What to call the files."""
        return tuple(path.relative_to(self.folder).as_posix() for path in self.files)

    def class_names(self, column: str | None) -> tuple[str, ...] | None:
        """Give the names of a column of classes."""
        feature = self.features.get(column) if column else None
        names = feature.get("names") if isinstance(feature, dict) else None
        return tuple(map(str, names)) if isinstance(names, list) and names else None


def open_folder(base: Path, name: str, path: str, split: str | None) -> Saved:
    """Find the files of a saved dataset, or of one split of several.

    Raises: SampleError if there is no such folder or split, or not all of it.
    """
    folder = _choose(name, base / path, split)
    state = _read_json(name, folder / STATE_FILE)
    if state.get("_indices_data_files"):
        raise SampleError(
            f"{name}.path: {folder} holds a choice of rows that an old `datasets` kept beside all "
            "of them; open it there and save it again: load_from_disk(...).save_to_disk(...)"
        )
    try:
        files = tuple(folder / str(each["filename"]) for each in state["_data_files"])
    except (KeyError, TypeError) as error:
        raise SampleError(
            f"{name}.path: {folder / STATE_FILE} names no files; save the dataset again"
        ) from error
    if not files:
        raise SampleError(f"{name}.path: {folder} holds no rows; save a dataset that has some")
    for file in files:
        if not file.is_file():
            raise SampleError(f"{name}.path: {file} is missing; restore it, or save it again")
        if not _is_whole(file):
            raise SampleError(
                f"{name}.path: {file} was cut off: it lacks the mark at the end of an Arrow "
                "stream; restore it, or save it again"
            )
    info = folder / INFO_FILE
    features = _read_json(name, info).get("features") if info.is_file() else None
    return Saved(folder, files, features if isinstance(features, dict) else {})


def _is_whole(file: Path) -> bool:
    """Tell whether a stream has its end; without it, rows would be missing unnoticed."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - len(END_MARK)))
        return stream.read() == END_MARK


def _choose(name: str, place: Path, split: str | None) -> Path:
    if (place / SPLITS_FILE).is_file():
        return place / _known_split(name, place, split)
    if not (place / STATE_FILE).is_file():
        raise SampleError(
            f"{name}.path: {place} is no dataset that `datasets` saved: it has neither "
            f"{STATE_FILE} nor {SPLITS_FILE}. Give the folder of Dataset.save_to_disk; for files "
            "of text, Parquet or images use their own kinds"
        )
    own = _read_json(name, place / STATE_FILE).get("_split")
    if split not in (None, own):
        raise SampleError(
            f"{name}.split: {place} is one dataset{f', {own!r}' if own else ''}, not several; "
            f"leave split = {split!r} out"
        )
    return place


def _known_split(name: str, place: Path, split: str | None) -> str:
    known = [str(each) for each in _read_json(name, place / SPLITS_FILE).get("splits", [])]
    if split is None:
        raise SampleError(
            f"{name}.split: {place} holds {', '.join(known)}; say which, as in "
            f"split = {(known or ['train'])[0]!r}"
        )
    if split not in known:
        near = did_you_mean(split, known)
        raise SampleError(
            f"{name}.split: {place} has no split {split!r}{near or ';'} there are "
            f"{', '.join(known)}"
        )
    return split


def _read_json(name: str, file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise SampleError(f"{name}.path: {file} cannot be read: {error}; save it again") from error
    if not isinstance(document, dict):
        raise SampleError(f"{name}.path: {file} is no JSON object; save the dataset again")
    return document
