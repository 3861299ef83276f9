"""Committing: one part at a time, its record last; and the manifest when every record is there.

Knows the order of writes that makes a crash harmless, and which bytes belong to a part. Does not
know what the arrays mean or who works on which part when.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from pipeline.errors import CacheError, CorruptPart
from pipeline.store.backends import BACKENDS
from pipeline.store.backends.parquet import encode_samples
from pipeline.store.documents import Document, canonical, sealed
from pipeline.store.fields import DIGEST_BYTES, Array, SampleTable
from pipeline.store.files import describe
from pipeline.store.places import SCRATCH, Content, Place, Where, as_place
from pipeline.store.plan import Plan, check_same_plan, part_name, plan_bytes
from pipeline.store.records import (
    MANIFEST_FILE,
    PLAN_FILE,
    check_complete,
    expected_manifest,
    first_of,
    is_planned,
    read_plan,
    record_path,
    samples_path,
    targets_stem,
)
from pipeline.store.shared import Shared, shared_faults, write_shared

Statistics = Mapping[str, int | float]


def write_plan(where: Where, plan: Plan, shared: Shared | None = None) -> None:
    """Begin a cache, or check that the one there was begun with the same plan.

    `shared` are the arrays that the plan says all parts share; they come after it.

    Raises: FingerprintMismatch if it was planned otherwise; CacheError if the folder holds other
        things, is a file or cannot be written.
    """
    place = as_place(where)
    check_folder(place)
    place.begin()
    if place.size(PLAN_FILE) is None:
        _write_if_absent(place, plan)
    check_same_plan(read_plan(place), plan, where=str(place))
    if shared is not None:
        write_shared(place, plan, shared)


@contextmanager
def plan_in_turn(where: Where) -> Iterator[bool]:
    """Let one process at a time begin a cache, that the others find what it left; yields whether
    there is no plan yet.

    Raises: CacheError if the folder cannot be written or its file system has no locks.
    """
    place = as_place(where)
    place.begin()
    with place.claim("planning", wait=True):
        yield not is_planned(place)


def check_folder(where: Where) -> None:
    """Refuse a path that can never become a cache, before any work for it is done.

    Raises: CacheError if it is a file, holds other things, or may not be looked into; if it is in
        an object store, also if it may not be written, or has no conditional writes.
    """
    place = as_place(where)
    place.check()
    # The plan is the first thing a writer puts there: looking for it second cannot be fooled.
    foreign = sorted(set(place.names()) - {SCRATCH})
    if foreign and place.size(PLAN_FILE) is None:
        raise CacheError(
            f"{place}: holds {first_of(foreign)} and is not a cache. "
            "Name a new folder or an empty one."
        )


def check_plan(where: Where, plan: Plan) -> None:
    """Check, without writing, that `write_plan` would accept the folder.

    Raises: FingerprintMismatch or CacheError as `write_plan` does.
    """
    place = as_place(where)
    check_folder(place)
    if place.size(PLAN_FILE) is not None:
        check_same_plan(read_plan(place), plan, where=str(place))


@contextmanager
def claim_part(where: Where, part: int) -> Iterator[bool]:
    """Hold a part while it is made; gives False if others hold it or it has been made.

    A part that is held elsewhere may still fail there: look at `missing_parts` again later.

    Raises: CacheError if the folder cannot be written or its file system has no locks.
    """
    place = as_place(where)
    with place.claim(part_name(part)) as is_ours:
        yield is_ours and place.size(record_path(part)) is None


@dataclass(frozen=True)
class Built:
    """The files of a part, whole and described, in memory; nothing of it is on the disk yet."""

    place: Place
    part: int
    contents: Sequence[Content]
    record: Document


def commit_part(
    where: Where,
    plan: Plan,
    part: int,
    samples: SampleTable,
    arrays: Mapping[str, Array],
    statistics: Statistics,
) -> None:
    """Make a part that is claimed and make it last: `build_part`, then `store_part`."""
    store_part(build_part(where, plan, part, samples, arrays, statistics))


def build_part(
    where: Where,
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
    place = as_place(where)
    _check_content(place, plan, part, samples, arrays)
    _check_statistics(place, part, statistics)
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
    return Built(place, part, contents, sealed(record, key="digest"))


def store_part(built: Built) -> None:
    """Write the files of a part that is claimed, and make it last: files first, its record last.

    Nearly all of it is waiting for the disk.

    Raises: CacheError if the disk refuses.
    """
    place, name = built.place, part_name(built.part)
    assert place.is_claimed_here(name), "store inside `with claim_part(...)`"
    place.publish(built.contents, name=name)
    place.put(record_path(built.part), canonical(built.record), name=name)


def finish(where: Where, plan: Plan) -> Document:
    """Write the manifest, which makes the cache complete, and clear `.scratch/` away.

    Raises: IncompleteCache if parts are missing; CorruptPart if a committed one was damaged.
    """
    place = as_place(where)
    check_complete(place, plan)
    for name, what in shared_faults(place, plan):
        raise CorruptPart(f"{place}: {name}: {what}. Run the same command again to make it anew.")
    with place.claim("manifest", wait=True):
        manifest = sealed(expected_manifest(place, plan, _check_sizes(place)), key="digest")
        content = canonical(manifest)
        if _content_of(place, MANIFEST_FILE) != content:
            place.put(MANIFEST_FILE, content, name="manifest")
    place.sweep()
    return manifest


def _content_of(place: Place, path: str) -> bytes | None:
    return None if place.size(path) is None else place.read(path).tobytes()


def _write_if_absent(place: Place, plan: Plan) -> None:
    with place.claim("plan", wait=True):
        if place.size(PLAN_FILE) is None:
            place.put(PLAN_FILE, plan_bytes(plan), name="plan")


def _check_content(
    place: Place, plan: Plan, part: int, samples: SampleTable, arrays: Mapping[str, Array]
) -> None:
    rows = len(plan.part_range(part))
    columns: dict[str, tuple[Array, str, tuple[int, ...]]] = {
        "digests": (samples.digests, "uint8", (rows, DIGEST_BYTES)),
        "views": (samples.views, "int32", (rows,)),
        "labels": (samples.labels, "int64", (rows,)),
        "positions": (samples.positions, "int32", (rows,)),
    }
    where = f"{place}: part {part}"
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


def _check_statistics(place: Place, part: int, statistics: Statistics) -> None:
    for name, value in statistics.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise CacheError(
                f"{place}: part {part}: statistics.{name} is {value!r}, not a finite number"
            )


def _check_array(where: str, array: Array, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype.name != dtype or array.shape != shape:
        raise CacheError(
            f"{where}: is {array.dtype.name} {array.shape}; the plan says {dtype} {shape}"
        )


def _check_sizes(place: Place) -> Callable[[Document], None]:
    """Make what looks, without reading them, that no file of a part was lost or cut since."""
    sizes = place.sizes(("samples", "targets"))

    def look(record: Document) -> None:
        for entry in record["files"]:
            size = sizes(entry["path"])
            if size != entry["size_bytes"]:
                part = record["part"]
                fault = "is missing" if size is None else f"{size} of {entry['size_bytes']} bytes"
                raise CorruptPart(
                    f"{place}: part {part}: {entry['path']}: {fault}. Delete {record_path(part)} "
                    "and run the same command again to make it anew."
                )

    return look
