"""Committing: one part at a time, its record last; and the manifest when every record is there.

Knows the order of writes that makes a crash harmless, and which bytes belong to a part. Does not
know what the arrays mean or who works on which part when.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np

from pipeline.errors import CacheError, CorruptPart
from pipeline.store.backends import BACKENDS
from pipeline.store.backends.parquet import encode_samples
from pipeline.store.claims import SCRATCH, claim, is_claimed_here, sweep
from pipeline.store.documents import Document, canonical, sealed
from pipeline.store.fields import DIGEST_BYTES, Array, SampleTable
from pipeline.store.files import (
    Content,
    describe,
    disk_errors,
    read_file,
    remove,
    replace_synced,
    sync_folder,
    sync_tree,
    write_files,
    write_synced,
)
from pipeline.store.plan import Plan, check_same_plan, part_name, plan_bytes
from pipeline.store.records import (
    MANIFEST_FILE,
    PLAN_FILE,
    check_complete,
    expected_manifest,
    first_of,
    read_plan,
    read_record,
    record_path,
    samples_path,
    targets_stem,
)
from pipeline.store.shared import Shared, shared_faults, write_shared

FOLDERS = ("parts", "samples", "targets")

Statistics = Mapping[str, int | float]


def write_plan(folder: Path, plan: Plan, shared: Shared | None = None) -> None:
    """Begin a cache at `folder`, or check that the one there was begun with the same plan.

    `shared` are the arrays that the plan says all parts share; they come after it.

    Raises: FingerprintMismatch if it was planned otherwise; CacheError if the folder holds other
        things, is a file or cannot be written.
    """
    with disk_errors(folder):
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / PLAN_FILE).exists():
            _write_if_absent(folder, plan)
        check_same_plan(read_plan(folder), plan, where=str(folder))
        for name in FOLDERS:
            (folder / name).mkdir(exist_ok=True)
        sync_folder(folder)
    if shared is not None:
        write_shared(folder, plan, shared)


@contextmanager
def plan_in_turn(folder: Path) -> Iterator[bool]:
    """Let one process at a time begin a cache, that the others find what it left; yields whether
    there is no plan yet.

    Raises: CacheError if the folder cannot be written or its file system has no locks.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with claim(folder, "planning", wait=True):
        yield not (folder / PLAN_FILE).exists()


def check_folder(folder: Path) -> None:
    """Refuse a path that can never become a cache, before any work for it is done.

    Raises: CacheError if it is a file, holds other things, or may not be looked into.
    """
    with disk_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise CacheError(f"{folder}: is a file, not a folder. Name another path for the cache.")
        # The plan is the first thing a writer puts there: looking for it second cannot be fooled.
        foreign = sorted(set(os.listdir(folder)) - {SCRATCH}) if folder.is_dir() else []
        if foreign and not (folder / PLAN_FILE).exists():
            raise CacheError(
                f"{folder}: holds {first_of(foreign)} and is not a cache. "
                "Name a new folder or an empty one."
            )


def check_plan(folder: Path, plan: Plan) -> None:
    """Check, without writing, that `write_plan` would accept the folder.

    Raises: FingerprintMismatch or CacheError as `write_plan` does.
    """
    with disk_errors(folder):
        check_folder(folder)
        if (folder / PLAN_FILE).exists():
            check_same_plan(read_plan(folder), plan, where=str(folder))


@contextmanager
def claim_part(folder: Path, part: int) -> Iterator[Path | None]:
    """Hold a part while it is made; yields None if others hold it or it has been made.

    A part that is held elsewhere may still fail there: look at `missing_parts` again later.

    Raises: CacheError if the folder cannot be written or its file system has no locks.
    """
    with claim(folder, part_name(part)) as scratch:
        yield None if (folder / record_path(part)).exists() else scratch


@dataclass(frozen=True)
class Built:
    """The files of a part, whole and described, in memory; nothing of it is on the disk yet."""

    folder: Path
    part: int
    contents: Sequence[Content]
    record: Document


def commit_part(
    folder: Path,
    plan: Plan,
    part: int,
    samples: SampleTable,
    arrays: Mapping[str, Array],
    statistics: Statistics,
) -> None:
    """Make a part that is claimed and make it last: `build_part`, then `store_part`."""
    store_part(build_part(folder, plan, part, samples, arrays, statistics))


def build_part(
    folder: Path,
    plan: Plan,
    part: int,
    samples: SampleTable,
    arrays: Mapping[str, Array],
    statistics: Statistics,
) -> Built:
    """Encode a part: all that takes a processor. What is stored later may share the arrays' memory.

    `statistics` are sums over the part; the manifest adds them up.

    Shapes: arrays[name] (positions of the part, *field.shape) or (rows of the part, *field.shape).
    Raises: CacheError if the arrays are not what the plan says.
    """
    _check_content(folder, plan, part, samples, arrays)
    _check_statistics(folder, part, statistics)
    encode = BACKENDS[plan.backend].encode
    contents = [
        (samples_path(part), encode_samples(samples)),
        *encode(targets_stem(part), plan.fields, arrays, plan.compression),
    ]
    rows = plan.part_range(part)
    record = {
        "part": part,
        "fingerprint": plan.fingerprint,
        "row_start": rows.start,
        "row_stop": rows.stop,
        "positions": int(samples.positions.sum(dtype=np.int64)),
        "files": [describe(path, content) for path, content in sorted(contents, key=itemgetter(0))],
        "statistics": dict(statistics),
    }
    return Built(folder, part, contents, sealed(record, key="digest"))


def store_part(built: Built) -> None:
    """Write the files of a part that is claimed, and make it last: files first, its record last.

    Nearly all of it is waiting for the disk.

    Raises: CacheError if the disk refuses.
    """
    folder, part = built.folder, built.part
    assert is_claimed_here(folder, part_name(part)), "store inside `with claim_part(...)`"
    scratch = folder / SCRATCH / part_name(part)
    with disk_errors(folder):
        write_files(scratch / "files", built.contents)
        sync_tree(scratch / "files")
        for name in ("samples", "targets"):
            _move_entries(scratch / "files" / name, folder / name)
        write_synced(scratch / "record.json", canonical(built.record))
        replace_synced(scratch / "record.json", folder / record_path(part))


def finish(folder: Path, plan: Plan) -> Document:
    """Write the manifest, which makes the cache complete, and clear `.scratch/` away.

    Raises: IncompleteCache if parts are missing; CorruptPart if a committed one was damaged.
    """
    check_complete(folder, plan)
    for name, what in shared_faults(folder, plan):
        raise CorruptPart(f"{folder}: {name}: {what}. Run the same command again to make it anew.")
    with disk_errors(folder):
        with claim(folder, "manifest", wait=True) as scratch:
            assert scratch is not None, "a claim that waits is granted"
            _check_sizes(folder, plan)
            manifest = sealed(expected_manifest(folder, plan), key="digest")
            content = canonical(manifest)
            path = folder / MANIFEST_FILE
            if not path.is_file() or read_file(path).tobytes() != content:
                write_synced(scratch / MANIFEST_FILE, content)
                replace_synced(scratch / MANIFEST_FILE, path)
        sweep(folder)
    return manifest


def _write_if_absent(folder: Path, plan: Plan) -> None:
    with claim(folder, "plan", wait=True) as scratch:
        assert scratch is not None, "a claim that waits is granted"
        if not (folder / PLAN_FILE).exists():
            write_synced(scratch / PLAN_FILE, plan_bytes(plan))
            replace_synced(scratch / PLAN_FILE, folder / PLAN_FILE)


def _check_content(
    folder: Path, plan: Plan, part: int, samples: SampleTable, arrays: Mapping[str, Array]
) -> None:
    rows = len(plan.part_range(part))
    columns: dict[str, tuple[Array, str, tuple[int, ...]]] = {
        "digests": (samples.digests, "uint8", (rows, DIGEST_BYTES)),
        "views": (samples.views, "int32", (rows,)),
        "labels": (samples.labels, "int64", (rows,)),
        "positions": (samples.positions, "int32", (rows,)),
    }
    where = f"{folder}: part {part}"
    if len(samples) != rows:
        raise CacheError(f"{where}: {len(samples)} sample ids for {rows} rows")
    for name, (array, dtype, shape) in columns.items():
        _check_array(f"{where}: samples.{name}", array, dtype, shape)
    if (samples.positions < 0).any():
        raise CacheError(f"{where}: a row has {samples.positions.min()} positions")
    lengths = {"rows": rows, "positions": int(samples.positions.sum(dtype=np.int64))}
    if surplus := sorted(arrays.keys() ^ {field.name for field in plan.fields}):
        raise CacheError(f"{where}: {first_of(surplus)} given or planned, but not both")
    for field in plan.fields:
        shape = (lengths[field.axis], *field.shape)
        _check_array(f"{where}: field '{field.name}'", arrays[field.name], field.dtype, shape)


def _check_statistics(folder: Path, part: int, statistics: Statistics) -> None:
    for name, value in statistics.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise CacheError(
                f"{folder}: part {part}: statistics.{name} is {value!r}, not a finite number"
            )


def _check_array(where: str, array: Array, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype.name != dtype or array.shape != shape:
        raise CacheError(
            f"{where}: is {array.dtype.name} {array.shape}; the plan says {dtype} {shape}"
        )


def _move_entries(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        remove(target / entry.name)
        os.rename(entry, target / entry.name)
    sync_folder(target)


def _check_sizes(folder: Path, plan: Plan) -> None:
    """Look, without reading them, that no file of a committed part was lost or cut since."""
    for part in range(plan.part_count):
        record, _ = read_record(folder, plan, part)
        for entry in record["files"]:
            path = folder / entry["path"]
            size = path.stat().st_size if path.is_file() else None
            if size != entry["size_bytes"]:
                fault = "is missing" if size is None else f"{size} of {entry['size_bytes']} bytes"
                raise CorruptPart(
                    f"{folder}: part {part}: {entry['path']}: {fault}. Delete {record_path(part)} "
                    "and run the same command again to make it anew."
                )
