"""Reading a complete cache: open it once, then read any part, checked against its record.

Knows which bytes a part must have. Does not know what the arrays mean, nor in which order they are
wanted, and keeps nothing that grows with the rows beyond one digest a part.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CacheError, CorruptPart, IncompleteCache
from pipeline.store.backends import BACKENDS
from pipeline.store.backends.parquet import read_samples
from pipeline.store.documents import Document
from pipeline.store.fields import Array, SampleTable
from pipeline.store.files import FileEntry, read_file
from pipeline.store.plan import Plan
from pipeline.store.records import (
    GO_ON,
    MANIFEST_FILE,
    check_complete,
    read_manifest,
    read_plan,
    read_record,
    record_path,
    samples_path,
    targets_stem,
)


@dataclass(frozen=True)
class PartFiles:
    """The files of one part as its record names them; call it to read one.

    Raises: CorruptPart, from the call, if the file is not what the record says.
    """

    folder: Path
    part: int
    entries: dict[str, FileEntry]
    check: bool

    def __call__(self, path: str, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read a whole file by its path in the cache.

        Shapes: into and the returned bytes (size_bytes,).
        """
        entry = self.entries.get(path)
        if entry is None:
            raise self.fault(path, "is not named in the part's record")
        try:
            content = read_file(self.folder / path, into)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise self.fault(path, "is missing") from error
        if content.nbytes != entry["size_bytes"]:
            raise self.fault(path, f"has {content.nbytes} of {entry['size_bytes']} bytes")
        if self.check and hashlib.sha256(content.data).hexdigest() != entry["sha256"]:
            raise self.fault(path, "its checksum differs: a byte was changed")
        return content

    def fault(self, path: str, what: str) -> CorruptPart:
        """Name the part, the file and what is wrong with it."""
        return CorruptPart(f"{self.folder}: part {self.part}: {path}: {what}")


def open_files(folder: Path, part: int, record: Document, *, check: bool) -> PartFiles:
    """Give access to the files that a record names; with `check`, each is hashed when read."""
    entries: dict[str, FileEntry] = {entry["path"]: entry for entry in record["files"]}
    return PartFiles(folder=folder, part=part, entries=entries, check=check)


@dataclass(frozen=True)
class Cache:
    """A complete cache, opened. Safe to use from many threads and processes."""

    path: Path
    plan: Plan
    manifest: Document

    @property
    def digest(self) -> str:
        """The manifest's digest, which stands for every byte of the cache."""
        return str(self.manifest["digest"])

    def read_part(
        self, part: int, names: Sequence[str] | None = None, *, check: bool = True
    ) -> dict[str, Array]:
        """Read the fields of a part, all or those named, into fresh arrays.

        Shapes: each (positions of the part, *field.shape) or (rows of the part, *field.shape).
        Raises: CorruptPart if the part is damaged; CacheError if there is no such field.
        """
        fields = [field for field in self.plan.fields if names is None or field.name in names]
        if unknown := sorted(set(names or ()) - {field.name for field in fields}):
            have = ", ".join(field.name for field in self.plan.fields)
            raise CacheError(f"{self.path}: has no field {', '.join(unknown)}; it has {have}")
        record, files = self._open_part(part, check)
        lengths = {"rows": len(self.plan.part_range(part)), "positions": record["positions"]}
        return BACKENDS[self.plan.backend].read(files, targets_stem(part), fields, lengths)

    def read_samples(self, part: int, *, check: bool = True) -> SampleTable:
        """Read the table of a part's rows.

        Raises: CorruptPart if the part is damaged.
        """
        _, files = self._open_part(part, check)
        return read_samples(files, samples_path(part), len(self.plan.part_range(part)))

    def _open_part(self, part: int, check: bool) -> tuple[Document, PartFiles]:
        record, digest = read_record(self.path, self.plan, part)
        if digest != self.manifest["records"][part]:
            raise CorruptPart(
                f"{self.path}: part {part}: {record_path(part)}: is not the record that "
                "the manifest names"
            )
        return record, open_files(self.path, part, record, check=check)


def open_cache(path: str | Path) -> Cache:
    """Open a complete cache.

    Raises: IncompleteCache if parts are missing; CorruptPart if plan or manifest were changed;
        CacheError if there is no cache.
    """
    folder = Path(path)
    plan = read_plan(folder)
    if not (folder / MANIFEST_FILE).is_file():
        check_complete(folder, plan)
        raise IncompleteCache(f"{folder}: all parts are there, but no manifest yet. {GO_ON}")
    return Cache(path=folder, plan=plan, manifest=read_manifest(folder, plan))
