"""From rows to committed parts: read ahead, ask the teacher, write behind.

Where the teacher has a device of its own, its forward pass is all one waits for. Every part is a
pure function of the plan, so it may be made at any time, in any order, by anyone, and batches never
cross parts.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.caching.plan import Work
from pipeline.compute import Background, guard_memory
from pipeline.errors import TargetError
from pipeline.models import BLOCK_ELEMENTS, Output, prepare
from pipeline.samples import Positions, SampleBatch, positions_of, tokens_of, unmask, views_of
from pipeline.store import (
    Built,
    SampleTable,
    build_part,
    claim_part,
    missing_parts,
    store_part,
)
from pipeline.stream import prefetch
from pipeline.stream.token_rows import check_counts, encode_rows
from pipeline.targets import (
    decode,
    encode,
    encode_features,
    find_bad_positions,
    kept_mass,
    uniforms,
)

Arrays = dict[str, NDArray[np.generic]]
Digests = NDArray[np.uint8]
# Of each row of a batch its sample's id and its view, and what the teacher answered.
Asked = tuple[list[tuple[str, int]], Output]
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


def answer(work: Work, batch: SampleBatch, views: NDArray[np.int64]) -> Arrays:
    """Ask the teacher about one batch, shown in these views, and keep what the plan says.

    Shapes: views (B,); returns the arrays of the plan's fields over positions, (P, ...).
    Raises: TargetError if a logit is not finite, naming the samples.
    """
    return _encode(work, [_ask(work, batch, views)])


def _ask(work: Work, batch: SampleBatch, views: NDArray[np.int64]) -> Asked:
    with torch.inference_mode(), guard_memory(work.batch_size, "teacher"):
        output: Output = work.network(prepare(batch.inputs, work.device))
        return list(zip(batch.ids, views.tolist(), strict=True)), output


def _encode(work: Work, asked: Sequence[Asked]) -> Arrays:
    numbers, start, answers = _numbers(work, asked), 0, list[Arrays]()
    with torch.inference_mode(), guard_memory(work.batch_size, "teacher"):
        try:
            for block in _blocks(work, asked):
                stop = start + len(block)
                drawn = None if numbers is None else numbers[start:stop]
                answers.append(encode(work.spec, block, work.shape.basis, drawn))
                start = stop
            features = encode_features(_features(work, asked), work.features)
        except TargetError as error:
            raise _named(error, asked) from error
    return _concatenate(answers) | features


def _features(work: Work, asked: Sequence[Asked]) -> dict[str, Tensor]:
    """Join the features of some batches. Shapes: each (P, d)."""
    return {
        name: torch.cat([output.features[name] for _, output in asked]) for name in work.features
    }


def _numbers(work: Work, asked: Sequence[Asked]) -> NDArray[np.float64] | None:
    """Give the random numbers of every position, if any are needed. Shapes: returns (P, D)."""
    if not work.spec.draws:
        return None
    counts = torch.cat([output.positions for _, output in asked]).tolist()
    rows = [row for rows, _ in asked for row in rows]
    return uniforms(work.spec.seed, rows, counts, work.spec.draws)


def _blocks(work: Work, asked: Sequence[Asked]) -> Iterator[Tensor]:
    """Make logits, few positions together and many in blocks. Shapes: yields (some, C)."""
    if _count_elements(work, asked) > BLOCK_ELEMENTS:
        for _, output in asked:
            yield from output.blocks()
    else:
        logits = [output.logits for _, output in asked]
        yield logits[0] if len(logits) == 1 else torch.cat(logits)


def _concatenate(answers: Sequence[Arrays]) -> Arrays:
    if len(answers) == 1:
        return answers[0]
    return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}


def _still_missing(work: Work, order: Sequence[int]) -> list[int]:
    missing = set(missing_parts(work.folder, work.plan))
    return [part for part in order if part in missing]


def _make_free_parts(work: Work, parts: Sequence[int], advance: Callable[[int], None]) -> int:
    made, asked, answers, batches = 0, list[Asked](), list[Arrays](), list[Rows]()
    ahead = READ_AHEAD if work.builds_behind else 0
    # Whatever happens, the reader stops first, then the writer ends, then every claim is let go.
    with (
        ExitStack() as claims,
        Background() as background,
        closing(prefetch(_questions(work, parts, claims), ahead)) as questions,
    ):
        for question in questions:
            asked.append(_ask(work, question.batch, question.views))
            batches.append(_rows(work, question))
            advance(len(question.batch.ids))
            if question.is_last or _count_elements(work, asked) >= ENCODE_ELEMENTS:
                answers.append(_encode(work, asked))
                asked = []
            if question.is_last:
                build = partial(_build, work, question.part, batches, answers)
                background.submit(partial(_commit, question.claim, _now_or_later(work, build)))
                made, answers, batches = made + 1, [], []
    return made


def _questions(work: Work, parts: Sequence[int], claims: ExitStack) -> Iterator[Question]:
    for part in parts:
        claim = ExitStack()
        if claim.enter_context(claim_part(work.folder, part)) is None:
            claim.close()
            continue
        claims.callback(claim.close)
        rows = work.plan.part_range(part)
        for start in range(rows.start, rows.stop, work.read_rows):
            block, digests, views = _read(
                work, range(start, min(start + work.read_rows, rows.stop))
            )
            for first in range(0, len(block.ids), work.batch_size):
                cut = slice(first, first + work.batch_size)
                batch = SampleBatch(block.ids[cut], block.inputs[cut], block.labels[cut])
                is_last = start + first + len(batch.ids) == rows.stop
                positions = positions_of(work.samples, batch)
                yield Question(part, batch, digests[cut], views[cut], positions, is_last, claim)


def _read(work: Work, rows: range) -> tuple[SampleBatch, Digests, NDArray[np.int64]]:
    """Read samples, each once, confirm their contents, and show them in the views of the rows."""
    views = views_of(work.samples)
    indices, numbers = views.split(rows)
    first = int(indices[0])
    read = work.samples.read(range(first, int(indices[-1]) + 1))
    digests = work.contents.confirm(work.samples.name, first, read)
    if views.count > 1:
        at = indices - first
        ids = [read.ids[place] for place in at.tolist()]
        read, digests = SampleBatch(ids, read.inputs[at], read.labels[at]), digests[at]
    return views.show(read, numbers), digests, numbers


def _rows(work: Work, question: Question) -> Rows:
    """Let go of the inputs; their digests are all that is kept of them, and tokens."""
    batch, tokens = question.batch, tokens_of(work.samples)
    kept = encode_rows(unmask(batch.inputs), tokens.vocabulary) if tokens else {}
    if tokens and tokens.task == "next_token":
        check_counts(kept, question.positions.counts, batch.ids)
    return Rows(batch.ids, batch.labels, question.digests, question.views, question.positions, kept)


def _count_elements(work: Work, asked: Sequence[Asked]) -> int:
    return work.spec.class_count * sum(len(output) for _, output in asked)


def _now_or_later(work: Work, build: Callable[[], Built]) -> Callable[[], Built]:
    """Build at once where the teacher wants every core; storing only waits, so it never does."""
    if work.builds_behind:
        return build
    built = build()
    return lambda: built


def _commit(claim: ExitStack, build: Callable[[], Built]) -> None:
    with claim:
        store_part(build())


def _build(work: Work, part: int, batches: list[Rows], answers: list[Arrays]) -> Built:
    arrays = _concatenate(answers)
    tokens = _concatenate([batch.tokens for batch in batches])
    labels = np.concatenate([batch.positions.labels for batch in batches])
    statistics = _statistics(work, arrays, labels)
    return build_part(work.folder, work.plan, part, _table(batches), arrays | tokens, statistics)


def _table(batches: list[Rows]) -> SampleTable:
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
        "confidence_sum": float(arrays["confidence"].sum(dtype=np.float64)),
        "kept_mass_sum": float(kept_mass(targets, 1.0).double().sum()),
        "labelled": int(labelled.sum()),
        "teacher_right": int((top == labels)[labelled].sum()),
    }


def _named(error: TargetError, asked: Sequence[Asked]) -> TargetError:
    """Say on which samples encoding failed; it knows positions only. One batch stands for all."""
    for rows, output in asked:
        if bad := _find_bad_rows(output):
            named = ", ".join(rows[row][0] for row in bad[:5])
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            return TargetError(
                f"teacher: its logits are NaN or infinite for {len(bad)} of {len(rows)} samples of "
                f"a batch ({named}{more}); every logit must be finite.\n"
                "  Try teacher.precision = 'float32', or look at these samples. Finished parts are "
                "kept."
            )
    return error


def _find_bad_rows(output: Output) -> list[int]:
    """List the samples of a batch with a position at which a logit is not finite."""
    bad, start = list[int](), 0
    for logits in output.blocks():
        bad += [start + position for position in find_bad_positions(logits)]
        start += len(logits)
    ends = output.positions.cumsum(0).cpu()  # (B,)
    return sorted(set(torch.searchsorted(ends, torch.tensor(bad), right=True).tolist()))
