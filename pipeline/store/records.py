"""The documents in a cache's folder: the plan, the records and the manifest, and what is missing.

Knows how the three belong together. Does not open the files of arrays, and writes nothing.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipeline.errors import CacheError, CorruptPart, IncompleteCache
from pipeline.store.documents import Document, parse_sealed, sha256
from pipeline.store.places import Place, Where, as_place
from pipeline.store.plan import FORMAT, VERSION, Plan, check_format, parse_plan, part_name

PLAN_FILE = "plan.json"
MANIFEST_FILE = "manifest.json"
# Whichever of the two began it.
GO_ON = "Run `pipeline cache-teacher RECIPE` or `pipeline generate RECIPE` to go on."
_RECORD_KEYS = {
    *("part", "fingerprint", "row_start", "row_stop"),
    *("positions", "files", "statistics", "digest"),
}
_MANIFEST_KEYS = {
    *("format", "version", "fingerprint", "plan_sha256", "records"),
    *("rows", "positions", "size_bytes", "statistics", "digest"),
}
_SHOWN = 8
# Records in memory at once.
_TOGETHER = 1024


def read_plan(where: Where) -> Plan:
    """Read the plan of a cache, complete or not.

    Raises: CacheError if there is none; CorruptPart if it was changed.
    """
    place = as_place(where)
    if what := place.missing():
        make = ", or make it with `pipeline cache-teacher RECIPE`" if "no such" in what else ""
        raise CacheError(f"{place}: {what}. Name the folder of a cache{make}.")
    if place.size(PLAN_FILE) is None:
        raise CacheError(f"{place}: is not a cache: it has no {PLAN_FILE}. Name another folder.")
    return parse_plan(place.read(PLAN_FILE).tobytes(), where=f"{place}/{PLAN_FILE}")


def is_planned(where: Where) -> bool:
    """Whether a cache was begun there."""
    return as_place(where).size(PLAN_FILE) is not None


def missing_parts(where: Where, plan: Plan) -> list[int]:
    """List the parts without a record, in order."""
    there = set(as_place(where).names("parts"))
    return [part for part in range(plan.part_count) if f"{part_name(part)}.json" not in there]


def check_complete(where: Where, plan: Plan) -> None:
    """Refuse a cache with parts that have no record yet.

    Raises: IncompleteCache with the missing parts as ranges.
    """
    place = as_place(where)
    if missing := missing_parts(place, plan):
        raise IncompleteCache(
            f"{place}: not complete: {len(missing)} of {plan.part_count} parts are missing "
            f"({part_ranges(missing)}). {GO_ON}"
        )


def read_record(place: Place, plan: Plan, part: int) -> tuple[Document, str]:
    """Read the record of a part, and the SHA-256 of its bytes.

    Raises: CorruptPart if it is missing, was changed, or belongs to another plan or part.
    """
    where = f"{place}: part {part}: {record_path(part)}"
    try:
        raw = place.read(record_path(part)).tobytes()
    except FileNotFoundError as error:
        raise CorruptPart(f"{where}: is missing") from error
    record = parse_sealed(raw, where=where, key="digest")
    rows = plan.part_range(part)
    wanted = {
        "part": part,
        "fingerprint": plan.fingerprint,
        "row_start": rows.start,
        "row_stop": rows.stop,
    }
    _check_keys(where, record, _RECORD_KEYS)
    for key, value in wanted.items():
        if record[key] != value:
            raise CorruptPart(f"{where}: '{key}' is {record[key]!r}; it must be {value!r}")
    return record, sha256(raw)


def read_manifest(place: Place, plan: Plan) -> Document:
    """Read the manifest and check that it belongs to the plan.

    Raises: CorruptPart if it was changed or belongs to another plan.
    """
    where = f"{place}: {MANIFEST_FILE}"
    raw = place.read(MANIFEST_FILE).tobytes()
    manifest = parse_sealed(raw, where=where, key="digest")
    check_format(manifest, where=where)
    _check_keys(where, manifest, _MANIFEST_KEYS)
    wanted = {
        "fingerprint": plan.fingerprint,
        "plan_sha256": sha256(place.read(PLAN_FILE).tobytes()),
        "rows": plan.rows,
    }
    for key, value in wanted.items():
        if manifest[key] != value:
            raise CorruptPart(f"{where}: '{key}' is {manifest[key]!r}; the plan's is {value!r}")
    if len(manifest["records"]) != plan.part_count:
        count = len(manifest["records"])
        raise CorruptPart(f"{where}: names {count} records; the plan has {plan.part_count} parts")
    return manifest


def _read_records(place: Place, plan: Plan) -> Iterator[tuple[Document, str]]:
    """Read all records in order; of an object store many at a time, for each waits its turn.

    Raises: CorruptPart if one is missing or was changed.
    """
    read = partial(read_record, place, plan)
    if place.parallel == 1:
        yield from map(read, range(plan.part_count))
        return
    with ThreadPoolExecutor(place.parallel) as pool:
        for start in range(0, plan.part_count, _TOGETHER):
            yield from pool.map(read, range(start, min(start + _TOGETHER, plan.part_count)))


def expected_manifest(
    place: Place, plan: Plan, look: Callable[[Document], None] | None = None
) -> Document:
    """Work out what the manifest must say, but for its seal, from the plan and the records.

    `look` is shown each record, so that none is read twice.

    Raises: CorruptPart if a record is missing or was changed; what `look` raises.
    """
    positions, size_bytes, digests = 0, 0, []
    statistics: dict[str, int | float] = {}
    for record, digest in _read_records(place, plan):
        if look:
            look(record)
        digests.append(digest)
        positions += record["positions"]
        size_bytes += sum(entry["size_bytes"] for entry in record["files"])
        for name, value in record["statistics"].items():
            statistics[name] = statistics.get(name, 0) + value
    return {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": plan.fingerprint,
        "plan_sha256": sha256(place.read(PLAN_FILE).tobytes()),
        "records": digests,
        "rows": plan.rows,
        "positions": positions,
        "size_bytes": size_bytes,
        "statistics": statistics,
    }


def record_path(part: int) -> str:
    """Return where a part's record lies in its cache."""
    return f"parts/{part_name(part)}.json"


def samples_path(part: int) -> str:
    """Return where a part's samples table lies in its cache."""
    return f"samples/{part_name(part)}.parquet"


def targets_stem(part: int) -> str:
    """Return what the paths of a part's arrays begin with."""
    return f"targets/{part_name(part)}"


def first_of(names: list[str]) -> str:
    """Name the first few, and count the rest."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check_keys(where: str, document: Document, wanted: set[str]) -> None:
    if wrong := sorted(document.keys() ^ wanted):
        raise CorruptPart(f"{where}: {first_of(wrong)} missing, or not a key of version {VERSION}")


def part_ranges(parts: list[int]) -> str:
    """Name parts that are in order as ranges, such as `0-3, 7`."""
    ranges: list[list[int]] = []
    for part in parts:
        if ranges and part == ranges[-1][1] + 1:
            ranges[-1][1] = part
        else:
            ranges.append([part, part])
    return first_of([str(low) if low == high else f"{low}-{high}" for low, high in ranges])
