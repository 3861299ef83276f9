"""Reading a cache: open it once, then read any part, checked against its record.

Knows which bytes a part must have. Does not know what the arrays mean, nor in which order they are
wanted, and keeps nothing that grows with the rows beyond one digest a part.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pipeline.errors import CacheError, CorruptPart, IncompleteCache
from pipeline.store.backends import BACKENDS
from pipeline.store.backends.parquet import read_samples
from pipeline.store.documents import Document
from pipeline.store.fields import Array, SampleTable
from pipeline.store.files import FileEntry, NamedFiles
from pipeline.store.places import Place, Spool, Where, as_place
from pipeline.store.plan import Plan
from pipeline.store.records import (
    GO_ON,
    MANIFEST_FILE,
    PLAN_FILE,
    check_complete,
    read_manifest,
    read_plan,
    read_record,
    record_path,
    samples_path,
    targets_stem,
)
from pipeline.store.shared import read_shared

# Those of two windows that are mapped, of parts of 8 MB; 2 MiB of memory.
KEPT_RECORDS = 256
# Between two looks at a part that is still being made.
LOOK_AGAIN_S = 0.5


def open_files(
    place: Place,
    part: int,
    record: Document,
    *,
    check: bool,
    mapped: bool = False,
    spool: Spool | None = None,
) -> NamedFiles:
    """Give access to the files that a record names; with `check`, each is hashed when read."""
    entries: dict[str, FileEntry] = {entry["path"]: entry for entry in record["files"]}
    where = f"part {part}: "
    return NamedFiles(place, where, entries, check, mapped, spool)


@dataclass(frozen=True)
class Cache:
    """A complete cache, opened. Safe to use from many threads and processes.

    One that is followed while it grows has an empty manifest, and `wait` is called before a part is
    read; it returns once the part is there.
    """

    path: Place
    plan: Plan
    manifest: Document
    # Copies of what is read, of caches in object stores.
    spool: Spool | None = None
    wait: Callable[[int], None] | None = None
    # Of the parts read last: reading one and proving it takes as long as many rows of targets.
    _records: OrderedDict[int, Document] = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    @property
    def digest(self) -> str:
        """The manifest's digest, which stands for every byte of the cache; of one that grows, the
        plan's fingerprint, which will decide them."""
        return str(self.manifest["digest"] if self.manifest else self.plan.fingerprint)

    @property
    def is_growing(self) -> bool:
        """Whether parts may still be missing."""
        return not self.manifest

    def read_part(
        self,
        part: int,
        names: Sequence[str] | None = None,
        *,
        check: bool = True,
        mapped: bool = False,
    ) -> dict[str, Array]:
        """Read the fields of a part, all or those named, into fresh arrays.

        With `mapped`, those that lie raw in one file are read-only views of it: nothing is copied,
        and the file must not change while they live.

        Shapes: each (positions of the part, *field.shape) or (rows of the part, *field.shape).
        Raises: CorruptPart if the part is damaged; CacheError if there is no such field.
        """
        fields = [field for field in self.plan.fields if names is None or field.name in names]
        if unknown := sorted(set(names or ()) - {field.name for field in fields}):
            have = ", ".join(field.name for field in self.plan.fields)
            raise CacheError(f"{self.path}: has no field {', '.join(unknown)}; it has {have}")
        record, files = self._open_part(part, check, mapped)
        lengths = {"rows": len(self.plan.part_range(part)), "positions": record["positions"]}
        return BACKENDS[self.plan.backend].read(files, targets_stem(part), fields, lengths)

    def read_samples(self, part: int, *, check: bool = True) -> SampleTable:
        """Read the table of a part's rows.

        Raises: CorruptPart if the part is damaged.
        """
        _, files = self._open_part(part, check)
        return read_samples(files, samples_path(part), len(self.plan.part_range(part)))

    def fetch_part(self, part: int, names: Sequence[str], *, check: bool = True) -> None:
        """Copy what reading these fields of a part needs into the spool, if there is one.

        With `check`, copies that are there already are proved to be whole.

        Raises: CacheError if the place or the disk refuses; CorruptPart if the record is damaged.
        """
        files = self._open_part(part, check)[1]
        for path in files.entries if self.spool else ():
            if _is_needed(path, names):
                files.fetch(path)

    def expect_part(self, part: int, names: Sequence[str]) -> None:
        """Tell the place that these fields of a part are read soon; whoever reads them hears what
        is wrong with them.
        """
        if self.is_growing or self.spool:  # there is nothing yet, or it is fetched
            return
        with suppress(CacheError):
            entries = self._open_part(part, check=False)[1].entries.values()
            needed = [entry for entry in entries if _is_needed(entry["path"], names)]
            self.path.expect({entry["path"]: entry["size_bytes"] for entry in needed})

    def read_shared(self) -> dict[str, Array]:
        """Read the arrays that all parts share, if there are any.

        Shapes: each (classes, *field.shape).
        Raises: CorruptPart if they are damaged.
        """
        return read_shared(self.path, self.plan)

    def read_record(self, part: int) -> Document:
        """Read what the record of a part says.

        Raises: CorruptPart if it is missing or was changed.
        """
        return self._records.get(part) or self._read_record(part)

    def _open_part(
        self, part: int, check: bool, mapped: bool = False
    ) -> tuple[Document, NamedFiles]:
        record = self.read_record(part)
        files = open_files(self.path, part, record, check=check, mapped=mapped, spool=self.spool)
        return record, files

    def _read_record(self, part: int) -> Document:
        if self.wait:
            self.wait(part)
        record, digest = read_record(self.path, self.plan, part)
        if self.manifest and digest != self.manifest["records"][part]:
            raise CorruptPart(
                f"{self.path}: part {part}: {record_path(part)}: is not the record that "
                "the manifest names"
            )
        self._records[part] = record
        if len(self._records) > KEPT_RECORDS:
            self._records.popitem(last=False)
        return record


def _is_needed(path: str, names: Sequence[str]) -> bool:
    """Whether a file holds some of these fields, or what is needed besides; of tables all is."""
    below = path.partition(".zarr/")[2]
    return "/" not in below or below.partition("/")[0] in names


def open_cache(where: Where, spool: Spool | None = None) -> Cache:
    """Open a complete cache; of one in an object store, copies of what is read go to the spool.

    Raises: IncompleteCache if parts are missing; CorruptPart if plan or manifest were changed;
        CacheError if there is no cache.
    """
    place = as_place(where)
    plan = read_plan(place)
    if place.size(MANIFEST_FILE) is None:
        check_complete(place, plan)
        raise IncompleteCache(f"{place}: all parts are there, but no manifest yet. {GO_ON}")
    near = spool if place.parallel > 1 else None
    return Cache(path=place, plan=plan, manifest=read_manifest(place, plan), spool=near)


def open_begun(where: Where) -> Cache:
    """Open a cache whether or not it is complete; only the parts that are there can be read.

    Raises: CorruptPart if plan or manifest were changed; CacheError if there is no cache.
    """
    place = as_place(where)
    plan = read_plan(place)
    is_complete = place.size(MANIFEST_FILE) is not None
    return Cache(path=place, plan=plan, manifest=read_manifest(place, plan) if is_complete else {})


def follow_cache(where: Where, spool: Spool | None = None, *, tell: Callable[[str], None]) -> Cache:
    """Open a cache that may still be made, as soon as it has been planned.

    Reading a part waits until it is there; `tell` is given a word about every wait.

    Raises: CorruptPart if the plan was changed; CacheError if the place cannot be read.
    """
    place = as_place(where)
    _wait_for(place, PLAN_FILE, "has not been planned yet; waiting for it", tell)
    plan = read_plan(place)

    def wait(part: int) -> None:
        what = f"part {part} of {plan.part_count} is not there yet; waiting for it"
        _wait_for(place, record_path(part), what, tell)

    near = spool if place.parallel > 1 else None
    return Cache(path=place, plan=plan, manifest={}, spool=near, wait=wait)


def _wait_for(place: Place, path: str, what: str, tell: Callable[[str], None]) -> None:
    if place.size(path) is not None:
        return
    tell(f"{place}: {what}")
    while place.size(path) is None:
        time.sleep(LOOK_AGAIN_S)
