"""Arrays that all parts of a cache share: an entry a class, in files that the plan names.

Knows how they lie on the disk and that the plan vouches for every byte, not what they mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from pipeline.errors import CorruptPart
from pipeline.store.backends import BACKENDS
from pipeline.store.documents import Document
from pipeline.store.fields import Array, Field
from pipeline.store.files import FileEntry, NamedFiles, describe
from pipeline.store.places import Content, Place, Where, as_place
from pipeline.store.plan import Plan

SHARED = "shared"
STEM = f"{SHARED}/arrays"


@dataclass(frozen=True)
class Shared:
    """Shared arrays as files, and what the plan's `about` says of them under "shared"."""

    about: Document
    contents: Sequence[Content]


def encode_shared(
    fields: Sequence[Field], arrays: Mapping[str, Array], *, backend: str, compression: str
) -> Shared:
    """Make the files of arrays over classes.

    Shapes: arrays[name] (classes, *field.shape).
    Source: FORMAT.md, section 7.5.
    """
    contents = list(BACKENDS[backend].encode(STEM, fields, arrays, compression))
    about: Document = {
        "entries": len(arrays[fields[0].name]),
        "fields": [
            {"name": each.name, "dtype": each.dtype, "shape": list(each.shape)} for each in fields
        ],
        "files": [describe(path, content) for path, content in sorted(contents, key=itemgetter(0))],
    }
    return Shared(about, contents)


def write_shared(place: Place, plan: Plan, shared: Shared) -> None:
    """Write the shared files beside a plan that names them, if they are not there.

    Raises: CacheError if the disk refuses.
    """
    assert plan.about.get(SHARED) == shared.about, "the plan names other shared arrays"
    with place.claim(SHARED, wait=True):
        if shared_faults(place, plan):
            place.remove(SHARED)
            place.publish(shared.contents, name=SHARED)


def read_shared(where: Where, plan: Plan) -> dict[str, Array]:
    """Read the arrays that all parts share; none if the plan names none.

    Shapes: each (classes, *field.shape).
    Raises: CorruptPart if a file of them is damaged.
    """
    about = plan.about.get(SHARED)
    if about is None:
        return {}
    fields = [
        Field(one["name"], one["dtype"], tuple(one["shape"]), "classes") for one in about["fields"]
    ]
    return BACKENDS[plan.backend].read(
        _files(as_place(where), about), STEM, fields, {"classes": about["entries"]}
    )


def shared_faults(where: Where, plan: Plan) -> list[tuple[str, str]]:
    """List the shared files that are not what the plan says, and what is wrong with each."""
    place = as_place(where)
    load, faults = _files(place, plan.about.get(SHARED, {"files": []})), []
    for path in load.entries:
        try:
            load(path)
        except CorruptPart as error:
            faults.append((path, str(error).removeprefix(f"{place}: {path}: ")))
    return faults


def shared_paths(plan: Plan) -> set[str]:
    """List the paths of the shared files."""
    return {entry["path"] for entry in plan.about.get(SHARED, {"files": []})["files"]}


def _files(place: Place, about: Document) -> NamedFiles:
    entries: dict[str, FileEntry] = {entry["path"]: entry for entry in about["files"]}
    return NamedFiles(place=place, where="", entries=entries, check=True)
