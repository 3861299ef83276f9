"""Reads every sample of a dataset once, to describe it or to say all that is wrong with it.

Knows nothing of caches. Memory does not grow with the dataset but for 16 bytes a sample, which find
duplicate ids.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.samples.batch import (
    UNLABELLED,
    SampleBatch,
    Samples,
    content_digests,
    ids_at,
    name_some,
)
from pipeline.samples.contents import ContentLog, sample_checksums

Given = TypeVar("Given")
Found = TypeVar("Found")
Signature = tuple[tuple[int, ...], str]

# Enough to keep a thread busy, little enough that several blocks in flight stay small.
BLOCK_BYTES = 4 * 2**20
BLOCK_SAMPLES = 2048
SKIPPABLE = ("unreadable", "wrong shape", "not finite")


@dataclass(frozen=True)
class Skipped:
    """A sample that was left out, and why."""

    index: int
    id: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """What one pass over a dataset found; all of it is about the samples that were not skipped.

    Shapes: shape is that of one sample.
    """

    digest: str
    count: int
    shape: tuple[int, ...]
    dtype: str
    label_counts: dict[int, int]
    unlabelled: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Piece:
    """Samples of one shape that were read.

    Shapes: digests (B, 16); checksums, labels and finite (B,)."""

    start: int
    ids: list[str]
    digests: NDArray[np.uint8]
    checksums: NDArray[np.uint32]
    labels: NDArray[np.int64]
    finite: NDArray[np.bool_]
    signature: Signature


@dataclass
class _Tally:
    """What the scan has seen so far."""

    digest: Any = field(default_factory=hashlib.sha256)
    expected: Signature | None = None
    labels: Counter[int] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)

    def blame(self, kind: str, sample: Skipped) -> None:
        """Count a fault, keep the first five as examples, and the sample if it can be skipped."""
        self.counts[kind] += 1
        examples = self.faults.setdefault(kind, [])
        if len(examples) < 5:
            examples.append(f"{sample.id} ({sample.reason})" if sample.reason else sample.id)
        if kind in SKIPPABLE:
            self.skipped.append(sample)


def scan_samples(
    samples: Samples,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    threads: int = 2,
    advance: Callable[[int], None] | None = None,
    log: ContentLog | None = None,
) -> Scan:
    """Read every sample once and describe the dataset, or say everything that is wrong with it.

    The digest covers ids, labels and content digests in order; `log` is told of the contents.
    `on_error="skip"` leaves out samples that are unreadable, of another shape than the first, or
    not finite, and records them; duplicate ids and wrong labels are always refused.

    Raises: SampleError that counts each kind of fault and names the first five.
    """
    count = len(samples)
    if not count:
        raise SampleError(f"{samples.name}: there are no samples; it must have at least one")
    tally = _Tally()
    hashes = np.zeros(count, dtype=np.uint64)
    step = block_size(samples, np.arange(min(count, 5)))
    blocks = (np.arange(start, min(start + step, count)) for start in range(0, count, step))
    for pieces in map_in_order(lambda block: _read_block(samples, block), blocks, threads):
        for piece in pieces:
            is_good = _add(tally, piece, hashes, samples.class_names)
            if log is not None and isinstance(piece, Piece):
                log.add(piece.digests[is_good], piece.checksums[is_good])
        if advance is not None:
            advance(sum(len(p.ids) if isinstance(p, Piece) else 1 for p in pieces))
    skipped = np.array([each.index for each in tally.skipped], dtype=np.int64)
    for sample_id, times in find_duplicates(samples, hashes, skipped).items():
        tally.blame("duplicate ids", Skipped(-1, sample_id, f"{times} times"))
    _raise_faults(samples, tally, on_error)
    if tally.expected is None or len(skipped) == count:
        first = tally.skipped[0]
        raise SampleError(
            f"{samples.name}: all {count:,} samples would be skipped; "
            f"the first is {first.id} ({first.reason})"
        )
    shape, dtype = tally.expected
    unlabelled = tally.labels.pop(UNLABELLED, 0)
    return Scan(
        digest=tally.digest.hexdigest(),
        count=count - len(skipped),
        shape=shape,
        dtype=dtype,
        label_counts=dict(sorted(tally.labels.items())),
        unlabelled=unlabelled,
        skipped=tuple(tally.skipped),
    )


def find_duplicates(
    samples: Samples, hashes: NDArray[np.uint64], skipped: NDArray[np.int64]
) -> dict[str, int]:
    """Find the ids that occur more than once; equal hashes accuse, only the ids themselves convict.

    Shapes: hashes (number of samples,); skipped (number of samples to leave out,).
    """
    ascending = np.delete(hashes, skipped)
    ascending.sort()
    repeated = np.unique(ascending[1:][ascending[1:] == ascending[:-1]])
    if not len(repeated):
        return {}
    suspects = np.setdiff1d(np.flatnonzero(np.isin(hashes, repeated)), skipped)
    times = Counter(ids_at(samples, suspects))
    return {sample_id: count for sample_id, count in times.items() if count > 1}


def hash_ids(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Hash ids to 64 bits each.

    Shapes: returns (B,).
    Source: BLAKE2b, RFC 7693, with 8 bytes of digest.
    """
    joined = b"".join(hashlib.blake2b(each.encode(), digest_size=8).digest() for each in ids)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)


def map_in_order(
    function: Callable[[Given], Found], given: Iterable[Given], threads: int
) -> Iterator[Found]:
    """Map with threads, in order, with no more than two calls a thread ahead of the consumer.

    One thing alone is mapped here: beginning a thread takes longer than to look at a few samples.
    """
    waiting = iter(given)
    first = list(islice(waiting, 2))
    if len(first) < 2:
        yield from map(function, first)
        return
    pool = ThreadPoolExecutor(threads)
    ahead: deque[Future[Found]] = deque()
    try:
        for each in chain(first, waiting):
            ahead.append(pool.submit(function, each))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def block_size(samples: Samples, indices: NDArray[np.int64]) -> int:
    """Say how many samples make a few MiB of inputs, going by the first that can be read.

    Shapes: indices (B,).
    """
    size = BLOCK_BYTES // 64
    for index in indices[:5].tolist():
        try:
            size = max(1, samples.read([index]).inputs.nbytes)
            break
        except SampleError:
            # The scan itself will meet this sample again and say what is wrong with it.
            continue
    return int(np.clip(BLOCK_BYTES // size, 1, BLOCK_SAMPLES))


def _read_block(samples: Samples, block: NDArray[np.int64]) -> list[Piece | Skipped]:
    """Read a block at once or, if that fails, sample by sample to find out which is to blame."""
    try:
        return [_piece(int(block[0]), samples.read(block))]
    except SampleError as error:
        if len(block) == 1:
            return [_name_fault(samples, int(block[0]), error)]
    return [piece for index in block for piece in _read_block(samples, index[None])]


def _name_fault(samples: Samples, index: int, error: SampleError) -> Skipped:
    """Describe a sample that cannot be read."""
    try:
        sample_id = samples.ids(index, index + 1)[0]
    except SampleError:
        sample_id = f"sample {index}"
    reason = str(error).removeprefix(f"{samples.name}: ").removeprefix(f"{sample_id} ")
    return Skipped(index, sample_id, reason)


def _piece(start: int, batch: SampleBatch) -> Piece:
    finite = np.ones(len(batch.ids), dtype=bool)
    if batch.inputs.dtype.kind == "f":
        finite = np.isfinite(batch.inputs).all(axis=tuple(range(1, batch.inputs.ndim)))
    return Piece(
        start,
        batch.ids,
        content_digests(batch.inputs),
        sample_checksums(batch),
        batch.labels,
        finite,
        signature=(batch.inputs.shape[1:], batch.inputs.dtype.name),
    )


def _add(
    tally: _Tally,
    piece: Piece | Skipped,
    hashes: NDArray[np.uint64],
    class_names: tuple[str, ...] | None,
) -> NDArray[np.bool_]:
    """Add what was read to the tally; `hashes` (number of samples,) is filled in place.

    Shapes: returns (B,), which samples may be used.
    """
    if isinstance(piece, Skipped):
        tally.blame("unreadable", piece)
        return np.zeros(1, dtype=bool)
    tally.expected = tally.expected or piece.signature
    is_good = piece.finite & (piece.signature == tally.expected)
    hashes[piece.start : piece.start + len(piece.ids)] = hash_ids(piece.ids)
    top = len(class_names) if class_names is not None else np.iinfo(np.int64).max
    labels = piece.labels.tolist()
    for place, (sample_id, digest) in enumerate(zip(piece.ids, piece.digests, strict=True)):
        index = piece.start + place
        if piece.signature != tally.expected:
            tally.blame("wrong shape", Skipped(index, sample_id, describe_shape(piece.signature)))
        elif not piece.finite[place]:
            tally.blame("not finite", Skipped(index, sample_id, "holds NaN or infinity"))
        else:
            if not UNLABELLED <= labels[place] < top:
                tally.blame("labels out of range", Skipped(index, sample_id, str(labels[place])))
            tally.digest.update(_identity(sample_id, labels[place], digest))
            tally.labels[labels[place]] += 1
    return is_good


def _identity(sample_id: str, label: int, digest: NDArray[np.uint8]) -> bytes:
    name = sample_id.encode()
    return (
        len(name).to_bytes(8, "little")
        + name
        + label.to_bytes(8, "little", signed=True)
        + digest.tobytes()
    )


def describe_shape(signature: Signature) -> str:
    """Write a shape and a dtype as people do: `3 x 32 x 32 uint8`."""
    shape, dtype = signature
    return f"{' x '.join(map(str, shape)) or 'one number'} {dtype}"


def _raise_faults(samples: Samples, tally: _Tally, on_error: str) -> None:
    """Raise one error about every fault that may not be skipped."""
    fatal = {
        kind: count
        for kind, count in tally.counts.items()
        if on_error == "raise" or kind not in SKIPPABLE
    }
    if not fatal:
        return
    expected = describe_shape(tally.expected) if tally.expected else ""
    names = samples.class_names
    allowed = {
        "wrong shape": f", where the first sample has {expected}",
        "labels out of range": (
            f", which is 0 to {len(names) - 1}" if names else ", which begins at 0"
        )
        + ", with -1 for unlabelled",
    }
    lines = [
        f"{kind}: {count:,}{allowed.get(kind, '')}: {name_some(tally.faults[kind], count)}"
        for kind, count in fatal.items()
    ]
    advice = "Mend or remove them"
    if on_error == "raise" and set(fatal) <= set(SKIPPABLE):
        advice += ', or set on_error = "skip" to leave them out'
    total = sum(fatal.values())
    head = f"{samples.name}: {total:,} fault{'s' if total > 1 else ''} in {len(samples):,} samples"
    raise SampleError("\n  ".join([head, *lines, f"{advice}."]))
