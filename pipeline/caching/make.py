"""From rows to committed parts: read ahead, ask the teacher, write behind.

Where the teacher has a device of its own, its forward pass is all one waits for. Every part is a
pure function of the plan, so it may be made at any time, in any order, by anyone, and batches never
cross parts.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.caching.answer import (
    Arrays,
    Asked,
    ask,
    concatenate,
    count_elements,
    encode_asked,
)
from pipeline.caching.plan import Work
from pipeline.caching.writing import write_rows
from pipeline.compute import Background
from pipeline.samples import (
    Positions,
    SampleBatch,
    content_digests,
    positions_of,
    read_views,
    split_rows,
    tokens_of,
    unmask,
)
from pipeline.samples.batch import UNLABELLED, Mixed
from pipeline.store import (
    Built,
    SampleTable,
    build_part,
    claim_part,
    missing_parts,
    store_part,
)
from pipeline.stream import prefetch
from pipeline.stream.tokens.rows import check_counts, encode_rows
from pipeline.targets import (
    decode,
    kept_mass,
)

Digests = NDArray[np.uint8]
# One batch being answered, one ready, one being read.
READ_AHEAD = 2
# Encoding is many small operations, so logits of few classes wait for each other: up to 1 MiB.
ENCODE_ELEMENTS = 2**18
# Between two looks at a part that another process is making.
LOOK_AGAIN_S = 0.2


@dataclass(frozen=True)
class Question:
    """One batch of a part, read and waiting; `claim` is let go once the part is written.

    Shapes: digests (B, 16), of the samples as they are; views (B,), in which the batch shows them.
    """

    part: int
    batch: SampleBatch
    digests: NDArray[np.uint8]
    views: NDArray[np.int64]
    positions: Positions
    is_last: bool
    claim: ExitStack


@dataclass(frozen=True)
class Rows:
    """What a part remembers of a batch whose inputs are gone.

    Shapes: digests (B, 16); tokens (B, ...) each, none where inputs are no tokens.
    """

    ids: list[str]
    labels: NDArray[np.int64]
    digests: NDArray[np.uint8]
    views: NDArray[np.int64]
    positions: Positions
    tokens: Arrays


def make_parts(
    work: Work, order: Sequence[int], advance: Callable[[int], None], wait: Callable[[str], None]
) -> None:
    """Make and commit every part of `order` that has no record yet.

    Parts that another process is making are left to it; at the end it is waited for, with a word to
    `wait`, and what it did not finish is made here.

    Raises: TargetError if the teacher's logits are not finite, naming the samples; SampleError if
        samples changed since they were scanned; CacheError if the disk refuses. Parts committed
        before stay.
    """
    while parts := _still_missing(work, order):
        made = _make_free_parts(work, parts, advance)
        if not made and _still_missing(work, order):
            wait(f"{work.folder}: another process is making the last parts; waiting for it")
            time.sleep(LOOK_AGAIN_S)


def _still_missing(work: Work, order: Sequence[int]) -> list[int]:
    missing = set(missing_parts(work.folder, work.plan))
    return [part for part in order if part in missing]


def _make_free_parts(work: Work, parts: Sequence[int], advance: Callable[[int], None]) -> int:
    made, asked, answers, batches = 0, list[Asked](), list[Arrays](), list[Rows]()
    # Who writes before it answers would be asked by two threads at once.
    ahead = READ_AHEAD if work.builds_behind and not work.writing else 0
    # Whatever happens, the reader stops first, then the writer ends, then every claim is let go.
    with (
        ExitStack() as claims,
        Background() as background,
        closing(prefetch(_questions(work, parts, claims), ahead)) as questions,
    ):
        for question in questions:
            asked.append(ask(work, question.batch, question.views))
            batches.append(remember(work, question))
            advance(len(question.batch.ids))
            if question.is_last or count_elements(work, asked) >= ENCODE_ELEMENTS:
                answers.append(encode_asked(work, asked))
                asked = []
            if question.is_last:
                build = partial(build_rows, work, question.part, batches, answers)
                background.submit(partial(_commit, question.claim, _now_or_later(work, build)))
                made, answers, batches = made + 1, [], []
    return made


def _questions(work: Work, parts: Sequence[int], claims: ExitStack) -> Iterator[Question]:
    for part in parts:
        claim = ExitStack()
        if not claim.enter_context(claim_part(work.folder, part)):
            claim.close()
            continue
        claims.callback(claim.close)
        rows = work.plan.part_range(part)
        for start in range(rows.start, rows.stop, work.read_rows):
            stop = min(start + work.read_rows, rows.stop)
            yield from read_questions(work, part, range(start, stop), claim)


def read_questions(work: Work, part: int, rows: range, claim: ExitStack) -> Iterator[Question]:
    """Read some rows of a part at once, and cut them into batches."""
    whole = work.plan.part_range(part)
    block, digests, views = _read(work, rows, whole)
    for first in range(0, len(block.ids), work.batch_size):
        cut = slice(first, first + work.batch_size)
        batch = _cut(block, cut)
        is_last = rows.start + first + len(batch.ids) == whole.stop
        positions = positions_of(work.samples, batch)
        yield Question(part, batch, digests[cut], views[cut], positions, is_last, claim)


def _read(work: Work, rows: range, part: range) -> tuple[SampleBatch, Digests, NDArray[np.int64]]:
    """Read samples, confirm their contents, and show them in the views of the rows of a part.

    Of prompts the rows are what the teacher makes of them.
    """
    found = list[Digests]()

    def confirm(first: int, read: SampleBatch) -> None:
        found.append(work.contents.confirm(work.samples.name, first, read))

    batch = read_views(work.samples, rows, part, look=confirm)
    numbers = split_rows(rows, len(work.samples))[1]
    if work.writing:
        written = write_rows(
            work.network,
            work.writing,
            batch,
            numbers,
            device=work.device,
            batch_size=work.batch_size,
        )
        return written, content_digests(written.inputs), np.zeros_like(numbers)
    return batch, np.concatenate(found), numbers


def _cut(block: SampleBatch, cut: slice) -> SampleBatch:
    mixed = block.mixed and Mixed(block.mixed.labels[cut], block.mixed.shares[cut])
    return SampleBatch(block.ids[cut], block.inputs[cut], block.labels[cut], mixed)


def remember(work: Work, question: Question) -> Rows:
    """Let go of the inputs; their digests are all that is kept of them, and tokens."""
    batch, tokens = question.batch, tokens_of(work.samples)
    kept = encode_rows(unmask(batch.inputs), tokens.vocabulary) if tokens else {}
    if tokens and tokens.task == "next_token":
        check_counts(kept, question.positions.counts, batch.ids)
    positions = question.positions
    if batch.mixed:  # whose answer is neither of two labels
        positions = replace(positions, labels=np.full_like(positions.labels, UNLABELLED))
    return Rows(batch.ids, batch.labels, question.digests, question.views, positions, kept)


def _now_or_later(work: Work, build: Callable[[], Built]) -> Callable[[], Built]:
    """Build at once where the teacher wants every core; storing only waits, so it never does."""
    if work.builds_behind:
        return build
    built = build()
    return lambda: built


def _commit(claim: ExitStack, build: Callable[[], Built]) -> None:
    with claim:
        store_part(build())


def build_rows(work: Work, part: int, batches: Sequence[Rows], answers: Sequence[Arrays]) -> Built:
    """Put what is kept of a part's batches into files, in memory."""
    arrays = concatenate(answers)
    tokens = concatenate([batch.tokens for batch in batches])
    labels = np.concatenate([batch.positions.labels for batch in batches])
    statistics = _statistics(work, arrays, labels)
    return build_part(work.folder, work.plan, part, _table(batches), arrays | tokens, statistics)


def _table(batches: Sequence[Rows]) -> SampleTable:
    labels = np.concatenate([batch.labels for batch in batches])
    return SampleTable(
        ids=[sample_id for batch in batches for sample_id in batch.ids],
        digests=np.concatenate([batch.digests for batch in batches]),
        views=np.concatenate([batch.views for batch in batches]).astype(np.int32),
        labels=labels,
        positions=np.concatenate([batch.positions.counts for batch in batches]).astype(np.int32),
    )


def _statistics(work: Work, arrays: Arrays, labels: NDArray[np.int64]) -> dict[str, int | float]:
    """Sum over a part what `inspect` shows of the whole cache; the manifest adds up the parts."""
    targets = decode(work.spec, arrays)
    labelled = labels >= 0
    top = targets.top_classes().numpy()
    return {
        "entropy_sum": float(arrays["entropy"].sum(dtype=np.float64)),
        "confidence_sum": float(targets.statistics["confidence"].numpy().sum(dtype=np.float64)),
        "kept_mass_sum": float(kept_mass(targets, 1.0).double().sum()),
        "labelled": int(labelled.sum()),
        "teacher_right": int((top == labels)[labelled].sum()),
    }
