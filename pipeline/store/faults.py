"""What is wrong with a cache: every fault in it, down to a flipped byte.

Reads every byte that belongs to the cache and looks for files that do not. Repairs nothing, and
does not know what the arrays mean.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.errors import CacheError, CorruptPart
from pipeline.store.backends import BACKENDS
from pipeline.store.backends.parquet import read_samples
from pipeline.store.cache import open_files
from pipeline.store.documents import Document
from pipeline.store.files import NamedFiles
from pipeline.store.places import SCRATCH, Place, Where, as_place
from pipeline.store.plan import Plan
from pipeline.store.records import (
    MANIFEST_FILE,
    PLAN_FILE,
    expected_manifest,
    read_manifest,
    read_plan,
    read_record,
    record_path,
    samples_path,
    targets_stem,
)
from pipeline.store.shared import SHARED, shared_faults, shared_paths

# What may lie in each folder, after a part's number.
_ENDINGS = {
    "parts": (".json",),
    "samples": (".parquet",),
    "targets": (".zarr", ".parquet", ".rows.parquet"),
}
_FOREIGN = "does not belong to this cache"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: in which part (None for the whole cache), which file, and what."""

    part: int | None
    file: str
    what: str

    def __str__(self) -> str:
        where = self.file if self.part is None else f"part {self.part}: {self.file}"
        return f"{where}: {self.what}"


MapParts = Callable[[Callable[[int], list[Fault]], Iterable[int]], Iterable[list[Fault]]]


def find_faults(where: Where, map_parts: MapParts = map) -> list[Fault]:
    """List everything that is wrong with a cache; an empty list proves it whole.

    `map_parts` checks the parts: `map`, or that of a pool of threads.

    Raises: CacheError if there is no cache at `folder`.
    """
    place = as_place(where)
    try:
        plan = read_plan(place)
    except CorruptPart as error:
        what = _without(error, f"{place}/{PLAN_FILE}: ")
        return [Fault(None, PLAN_FILE, f"{what}; without it the parts cannot be checked")]
    shared = [Fault(None, path, what) for path, what in shared_faults(place, plan)]
    faults = [*_check_manifest(place, plan), *shared, *_foreign_files(place, plan)]
    for found in map_parts(partial(check_part, place, plan), range(plan.part_count)):
        faults += found
    return faults


def check_part(where: Where, plan: Plan, part: int) -> list[Fault]:
    """List everything that is wrong with one part.

    Raises: CacheError if its files may not be read.
    """
    place = as_place(where)
    try:
        record, _ = read_record(place, plan, part)
    except CorruptPart as error:
        path = record_path(part)
        return [Fault(part, path, _without(error, f"{place}: part {part}: {path}: "))]
    files = open_files(place, part, record, check=True)
    faults = [*_check_files(files, part), *_surplus_files(files, part)]
    return faults or list(_check_content(plan, record, files, part))


def _check_files(files: NamedFiles, part: int) -> Iterator[Fault]:
    for path in files.entries:
        try:
            files(path)
        except CorruptPart as error:
            prefix = f"{files.place}: part {part}: {path}: "
            yield Fault(part, path, _without(error, prefix))


def _surplus_files(files: NamedFiles, part: int) -> Iterator[Fault]:
    for ending in _ENDINGS["targets"]:
        path = f"{targets_stem(part)}{ending}"
        below = [f"{path}/{name}" for name in files.place.files(path)]
        alone = [path] if files.place.size(path) is not None else []
        for name in (*below, *alone):
            if name not in files.entries:
                yield Fault(part, name, _FOREIGN)


def _check_content(plan: Plan, record: Document, files: NamedFiles, part: int) -> Iterator[Fault]:
    """Decode a part whose bytes are those of its record: a faulty writer shows only here."""
    rows = len(plan.part_range(part))
    path = samples_path(part)
    trusted = replace(files, check=False)
    try:
        positions = int(read_samples(trusted, path, rows).positions.sum())
        if positions != record["positions"]:
            raise files.fault(path, f"{positions} positions; its record has {record['positions']}")
        lengths = {"rows": rows, "positions": positions}
        path = targets_stem(part)
        BACKENDS[plan.backend].read(trusted, path, plan.fields, lengths)
    except CorruptPart as error:
        yield Fault(part, path, _without(error, f"{files.place}: part {part}: "))


def _check_manifest(place: Place, plan: Plan) -> Iterator[Fault]:
    if place.size(MANIFEST_FILE) is None:
        yield Fault(None, MANIFEST_FILE, "is missing: the cache is not complete")
        return
    try:
        manifest = read_manifest(place, plan)
    except CacheError as error:
        yield Fault(None, MANIFEST_FILE, _without(error, f"{place}: {MANIFEST_FILE}: "))
        return
    try:
        expected: dict[str, Any] = expected_manifest(place, plan)
    except CorruptPart:
        return  # the part itself reports its record
    for key, value in expected.items():
        if manifest[key] != value:
            yield Fault(None, MANIFEST_FILE, f"'{key}' does not follow from the records")


def _foreign_files(place: Place, plan: Plan) -> Iterator[Fault]:
    for name in place.names():
        inner = place.names(name)
        if name in _ENDINGS and inner:
            for each in inner:
                if not _belongs(each, _ENDINGS[name], plan):
                    yield Fault(None, f"{name}/{each}", _FOREIGN)
        elif name == SHARED and inner and shared_paths(plan):
            found = {f"{SHARED}/{each}" for each in place.files(SHARED)}
            for each in sorted(found - shared_paths(plan)):
                yield Fault(None, each, _FOREIGN)
        elif name not in (PLAN_FILE, MANIFEST_FILE, SCRATCH, *_ENDINGS):
            yield Fault(None, name, _FOREIGN)


def _belongs(name: str, endings: tuple[str, ...], plan: Plan) -> bool:
    match = re.fullmatch(r"(0\d{4}|[1-9]\d{4,})(\..*)", name)
    return match is not None and match[2] in endings and int(match[1]) < plan.part_count


def _without(error: Exception, prefix: str) -> str:
    return str(error).removeprefix(prefix)
