"""What a cache will hold, decided before the first part: rows, parts, fields and their fingerprint.

Knows how parts divide rows and when two plans are the same. Does not touch the disk, and does not
interpret `settings` (what can change the bytes) or `about` (what readers need to read the fields).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.errors import CacheError, FingerprintMismatch, list_differences, see
from pipeline.store.backends import BACKENDS
from pipeline.store.documents import Document, canonical, parse_sealed, sealed
from pipeline.store.fields import Field

FORMAT = "teacher-logit-cache"
VERSION = 1
COMPRESSIONS = ("none", "lz4", "zstd")
_KEYS = ("about", "backend", "compression", "fields", "rows", "rows_per_part", "settings")


@dataclass(frozen=True)
class Plan:
    """The content of plan.json. `settings` and `about` are nested JSON.

    Raises: CacheError if a value is not one that the format has.
    """

    rows: int
    rows_per_part: int
    backend: str
    compression: str
    fields: tuple[Field, ...]
    settings: dict[str, Any]
    about: dict[str, Any]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        _require(self.rows >= 1, f"rows is {self.rows}; a cache has at least one")
        _require(
            self.rows_per_part >= 1, f"rows_per_part is {self.rows_per_part}; it must be at least 1"
        )
        _require(
            self.backend in BACKENDS,
            f"backend {self.backend!r} is not one of {', '.join(BACKENDS)}",
        )
        _require(
            self.compression in COMPRESSIONS,
            f"compression {self.compression!r} is not one of {', '.join(COMPRESSIONS)}",
        )
        _require(bool(names), "fields is empty; a cache has at least one")
        _require(len(set(names)) == len(names), f"a field is named twice: {', '.join(names)}")

    @property
    def part_count(self) -> int:
        """How many parts the rows make; only the last may be short."""
        return -(-self.rows // self.rows_per_part)

    def part_range(self, part: int) -> range:
        """Return the rows of a part, counted over the whole cache."""
        assert 0 <= part < self.part_count, f"part {part} of {self.part_count}"
        start = part * self.rows_per_part
        return range(start, min(start + self.rows_per_part, self.rows))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything the plan says: equal fingerprints, equal bytes in every part."""
        return str(_sealed_plan(self)["fingerprint"])


def part_name(part: int) -> str:
    """Return the name that a part's files begin with: five digits, more if it needs them."""
    return f"{part:05d}"


def plan_bytes(plan: Plan) -> bytes:
    """Return the bytes of plan.json."""
    return canonical(_sealed_plan(plan))


def parse_plan(raw: bytes, *, where: str) -> Plan:
    """Read plan.json back.

    Raises: CorruptPart if a byte was changed; CacheError if it is of another format or version.
    """
    document = parse_sealed(raw, where=where, key="fingerprint")
    check_format(document, where=where)
    if sorted(document) != sorted((*_KEYS, "format", "version", "fingerprint")):
        raise CacheError(
            f"{where}: its keys are {', '.join(document)}; version {VERSION} has other"
        )
    try:
        fields = tuple(
            Field(one["name"], one["dtype"], tuple(one["shape"]), one["axis"])
            for one in document["fields"]
        )
        return Plan(**{key: document[key] for key in _KEYS if key != "fields"}, fields=fields)
    except (KeyError, TypeError) as error:
        raise CacheError(f"{where}: is not what version {VERSION} says ({error})") from error


def check_format(document: Document, *, where: str) -> None:
    """Refuse a document that is not of this format and version.

    Raises: CacheError with what was found.
    """
    if document.get("format") != FORMAT:
        raise CacheError(f"{where}: its format is {document.get('format')!r}, not '{FORMAT}'")
    if document.get("version") != VERSION:
        raise CacheError(
            f"{where}: its format version is {document.get('version')}; this software reads "
            f"version {VERSION}. Use the software that wrote it, or a newer one."
        )


def check_same_plan(there: Plan, here: Plan, *, where: str) -> None:
    """Refuse to continue a cache that was planned otherwise.

    Raises: FingerprintMismatch with the keys that differ and both values.
    """
    if there.fingerprint == here.fingerprint:
        return
    lines = list_differences(
        (there.settings, here.settings), (_comparable(there), _comparable(here))
    )
    head = f"{where}: this cache was made from another setup, so it cannot be continued"
    advice = "Cache into another folder, or delete this one."
    raise see(FingerprintMismatch("\n  ".join([head, *lines, advice])), "recipe.md")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise CacheError(f"plan: {problem}")


def _sealed_plan(plan: Plan) -> Document:
    fields = [
        {"name": one.name, "dtype": one.dtype, "shape": list(one.shape), "axis": one.axis}
        for one in plan.fields
    ]
    document = {key: getattr(plan, key) for key in _KEYS} | {"fields": fields}
    return sealed({**document, "format": FORMAT, "version": VERSION}, key="fingerprint")


def _comparable(plan: Plan) -> Document:
    """Everything but the settings, with the fields by name. Settings keep the recipe's own keys."""
    document = _sealed_plan(plan)
    fields = {one.pop("name"): one for one in document["fields"]}
    return {key: document[key] for key in _KEYS if key != "settings"} | {"fields": fields}
