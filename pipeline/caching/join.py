"""What a scan of the data found, left for those who help to make a cache: they need not scan.

It lies in the cache's scratch area until the cache is complete: a sealed document, and an entry of
20 bytes a sample, in blocks that the document has digests of. Whoever joins reads the blocks of the
parts it makes. Knows neither teacher nor targets.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CacheError, CorruptPart
from pipeline.samples import ContentLog, SampleBatch, Scan, Skipped
from pipeline.samples.contents import ENTRY, confirm_samples
from pipeline.store import Plan, Where, read_scratch, write_scratch
from pipeline.store.documents import canonical, parse_sealed, sealed, sha256

SCAN_FILE, CONTENTS_FILE = "scan.json", "contents.bin"
# Entries: 640 KiB, of which a reader keeps two.
BLOCK = 2**15


@dataclass(frozen=True)
class KeptLog:
    """A log of contents that another process left in a cache."""

    folder: Where
    digests: tuple[str, ...] = field(repr=False, hash=False)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Give the entries of a range. Shapes: returns (stop - start,).

        Raises: CacheError if they are not what was left there.
        """
        first, last = start // BLOCK, (stop - 1) // BLOCK
        blocks = [_read_block(self, number) for number in range(first, last + 1)]
        return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]

    def confirm(self, name: str, start: int, batch: SampleBatch) -> NDArray[np.uint8]:
        """Give the digests of the samples from `start` on: see `confirm_samples`."""
        return confirm_samples(self.read(start, start + len(batch.ids)), name, batch)


def leave_scan(folder: Where, plan: Plan, scan: Scan, log: ContentLog) -> None:
    """Leave what a scan found to others who make parts of this plan.

    Raises: CacheError if the disk refuses.
    """
    starts = range(0, scan.count, BLOCK)
    digests = list[str]()

    def blocks() -> Iterator[bytes]:
        for start in starts:
            block = log.read(start, min(start + BLOCK, scan.count)).tobytes()
            digests.append(sha256(block))
            yield block

    write_scratch(folder, CONTENTS_FILE, blocks())
    found = asdict(scan) | {"label_counts": list(scan.label_counts.items())}
    document = {"fingerprint": plan.fingerprint, "scan": found, "blocks": digests}
    # Last, for it speaks for the other.
    write_scratch(folder, SCAN_FILE, [canonical(sealed(document, key="digest"))])


def recall_scan(folder: Where, fingerprint: str) -> tuple[Scan, KeptLog] | None:
    """Read what a scan found that others did for this plan; None if nothing whole is there."""
    raw = read_scratch(folder, SCAN_FILE)
    if raw is None:
        return None
    try:
        document = parse_sealed(raw, where=f"{folder}: {SCAN_FILE}", key="digest")
    except CorruptPart:  # so the data is scanned, which costs time alone
        return None
    if document["fingerprint"] != fingerprint:
        return None
    return _scan(document["scan"]), KeptLog(folder, tuple(document["blocks"]))


def _scan(found: dict[str, Any]) -> Scan:
    return Scan(
        **found
        | {
            "shape": tuple(found["shape"]),
            "label_counts": dict(found["label_counts"]),
            "skipped": tuple(Skipped(**each) for each in found["skipped"]),
        }
    )


@lru_cache(maxsize=2)
def _read_block(log: KeptLog, number: int) -> NDArray[Any]:
    size = BLOCK * ENTRY.itemsize
    raw = read_scratch(log.folder, CONTENTS_FILE, number * size, (number + 1) * size)
    if raw is None or sha256(raw) != log.digests[number]:
        what = "is missing" if raw is None else "was changed"
        raise CacheError(
            f"{log.folder}: {CONTENTS_FILE} in its scratch area {what}; it holds what the data was "
            f"when it was scanned. Delete {SCAN_FILE} beside it and run the same command again: "
            "the data is scanned again, finished parts are kept."
        )
    return np.frombuffer(raw, ENTRY)
