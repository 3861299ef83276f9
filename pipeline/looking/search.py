"""Finding a sample's row in a cache by its id, or the ids that are most like it.

Parts are looked through one at a time, so that no more than one part's ids are in memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches

from pipeline.errors import SampleError
from pipeline.progress import progress
from pipeline.store import Cache, missing_parts

SHOWN_IDS = 3
# To compare an id with another takes some 50 us; whoever mistyped one does not wait for a million.
COMPARED_IDS = 20_000
# Below that no bar is worth its line.
QUICK_PARTS = 64


def sample_count(cache: Cache) -> int:
    """Count the samples: all rows of the first view come first, then all of the next."""
    return int(cache.plan.rows // (cache.plan.about.get("views") or {"count": 1})["count"])


def absent_parts(cache: Cache) -> set[int]:
    """Name the parts that cannot be read yet."""
    return set() if cache.manifest else set(missing_parts(cache.path, cache.plan))


@dataclass
class _Near:
    """The ids most like a wanted one, among the first that are compared."""

    wanted: str
    compared: int = 0
    found: list[str] = field(default_factory=list)

    def compare(self, ids: Iterable[str]) -> None:
        some = list(ids)[: COMPARED_IDS - self.compared]
        self.compared += len(some)
        close = get_close_matches(self.wanted, [*self.found, *some], n=SHOWN_IDS)
        matcher = SequenceMatcher(b=self.wanted)

        def likeness(each: str) -> float:
            matcher.set_seq1(each)
            return -matcher.ratio()

        self.found = sorted(dict.fromkeys(close), key=likeness)


def find_row(cache: Cache, sample: str, quiet: bool) -> int:
    """Find the row of a sample's first view; `quiet` leaves the bar out.

    Raises: SampleError if no row that is there is of the sample, with the nearest ids.
    """
    near, absent = _Near(sample), absent_parts(cache)
    parts = [part for part in range(cache.plan.part_count) if part not in absent]
    is_quick = len(parts) <= QUICK_PARTS
    with progress("inspect", total=len(parts), unit="parts", quiet=quiet or is_quick) as advance:
        for part in parts:
            ids = cache.read_samples(part).ids
            if sample in ids:
                row = cache.plan.part_range(part).start + ids.index(sample)
                return row % sample_count(cache)
            near.compare(ids)
            advance(1)
    hint = f"; near ids are {', '.join(near.found)}" if near.found else ""
    missing = f" of the {len(parts)} parts that are there" if absent else ""
    raise SampleError(
        f"{cache.path}: no row{missing} is of the sample '{sample}'{hint}. `pipeline inspect "
        f"{cache.path} --rows 20` lists the first ids; all are in "
        "the column id of samples/*.parquet."
    )
