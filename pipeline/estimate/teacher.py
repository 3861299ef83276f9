"""Three timed batches of the teacher, after one of warmth: asked and kept as the real pass does it.

The batches are spread over the first view of the data. What was kept of them becomes a small cache
in a folder that the caller throws away; its files are measured, and a student may read them.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from pipeline.caching.answer import Arrays, Asked, ask, concatenate, count_elements, encode_asked
from pipeline.caching.make import (
    ENCODE_ELEMENTS,
    Question,
    Rows,
    build_rows,
    read_questions,
    remember,
)
from pipeline.caching.plan import Work
from pipeline.estimate.costs import TeacherSeen
from pipeline.samples import Positions
from pipeline.store import Built, claim_part, finish, open_cache, store_part, write_plan

TIMED_BATCHES = 3
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Trial:
    """The measurements; of each timed batch its rows and seconds; and of the scratch cache its rows
    and the seconds it takes to read one.
    """

    seen: TeacherSeen
    rows: int
    batches: tuple[tuple[int, float], ...]
    varies: bool
    fetch_s: float


@dataclass(frozen=True)
class _Batch:
    """A batch that was answered; `read_s` is of `read_rows` rows, for more are read at once."""

    rows: Rows
    asked: Asked
    read_rows: int
    read_s: float
    ask_s: float
    keep_s: float


@dataclass(frozen=True)
class _Answered:
    """Distinct batches with what was kept of them, and seconds of a row.

    `warmth_s` is what the batch of warmth took beyond as many rows of the others.
    """

    batches: list[Rows]
    arrays: Arrays
    warmth_s: float
    read_s: float
    ask_s: float
    keep_s: float
    by_batch: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class _Files:
    """What files of a part take: of each row, of each part, and once; `varies` is of positions."""

    rows: int
    positions_a_row: float
    varies: bool
    once_s: float
    build_s: float
    part_s: float
    store_s: float
    fetch_s: float
    row_bytes: float
    part_bytes: float


def try_teacher(work: Work, startup_s: float, scratch: Path) -> Trial:
    """Time the teacher on three batches, and make a small cache of them in the folder `scratch`.

    Raises: TargetError if the teacher's logits are not finite; SampleError if samples changed since
        they were scanned.
    """
    samples = work.plan.rows if work.writing else len(work.samples)
    rows_per_part = work.plan.rows_per_part
    chosen = choose_batches(samples, rows_per_part, work.batch_size)
    answered = _answer(work, chosen, samples)
    files = _measure_files(work, answered, scratch)
    shared = work.shape.shared
    seen = TeacherSeen(
        samples=samples,
        rows=work.plan.rows,
        rows_per_part=rows_per_part,
        positions_a_row=files.positions_a_row,
        startup_s=startup_s,
        warmth_s=answered.warmth_s + files.once_s,
        read_s=answered.read_s,
        ask_s=answered.ask_s,
        keep_s=answered.keep_s,
        build_s=files.build_s,
        part_s=files.part_s,
        store_s=files.store_s,
        overlaps=work.builds_behind and not work.writing,
        row_bytes=files.row_bytes,
        part_bytes=files.part_bytes,
        shared_bytes=sum(content.nbytes for _, content in shared.contents) if shared else 0,
    )
    return Trial(seen, files.rows, answered.by_batch, files.varies, files.fetch_s)


def choose_batches(samples: int, rows_per_part: int, batch_size: int) -> list[range]:
    """Choose a batch of warmth and three that are spread over the first so many rows.

    Batches never cross parts. Where there are fewer than three, the last ones come again.
    """
    a_part = -(-rows_per_part // batch_size)
    full, rest = divmod(samples, rows_per_part)
    count = full * a_part + -(-rest // batch_size)
    middles = [count * (2 * place + 1) // (2 * TIMED_BATCHES) for place in range(TIMED_BATCHES)]
    return [
        _rows_of(number // a_part, number % a_part, samples, rows_per_part, batch_size)
        for number in (0, *middles)
    ]


def _rows_of(part: int, place: int, samples: int, rows_per_part: int, batch_size: int) -> range:
    start = part * rows_per_part + place * batch_size
    return range(start, min(start + batch_size, (part + 1) * rows_per_part, samples))


def timed(call: Callable[[], Answer]) -> tuple[float, Answer]:
    """Give the seconds that a call takes, and its answer."""
    started = time.perf_counter()
    answer = call()
    return time.perf_counter() - started, answer


def _answer(work: Work, chosen: Sequence[range], samples: int) -> _Answered:
    """Ask about one batch of warmth, then about the others, and keep as much at once as a part."""
    warmth, *rest = chosen
    warmth_s, first = timed(partial(_warm_up, work, warmth, samples))
    seen, waiting, answers, keep_s = list[_Batch](), list[Asked](), list[Arrays](), 0.0
    for rows in rest:
        seen.append(_ask(work, rows, samples))
        waiting.append(seen[-1].asked)
        if len(seen) == len(rest) or count_elements(work, waiting) >= ENCODE_ELEMENTS:
            more_s, arrays = timed(partial(encode_asked, work, waiting))
            answers.append(arrays)
            keep_s, waiting = keep_s + more_s, []
    rows_seen = sum(len(each.rows.ids) for each in seen)
    read_s = sum(each.read_s for each in seen) / sum(each.read_rows for each in seen)
    ask_s = sum(each.ask_s for each in seen) / rows_seen
    keep_s = (keep_s + sum(each.keep_s for each in seen)) / rows_seen
    steady_s = first.read_rows * read_s + len(warmth) * (ask_s + keep_s)
    return _Answered(
        batches=[each.rows for each in seen[: len(set(rest))]],
        arrays=concatenate(answers),
        warmth_s=max(0.0, warmth_s - steady_s),
        read_s=read_s,
        ask_s=ask_s,
        keep_s=keep_s,
        by_batch=tuple((len(each.rows.ids), each.ask_s) for each in seen),
    )


def _warm_up(work: Work, rows: range, samples: int) -> _Batch:
    first = _ask(work, rows, samples)
    encode_asked(work, [first.asked])
    return first


def _ask(work: Work, rows: range, samples: int) -> _Batch:
    part = rows.start // work.plan.rows_per_part
    # Small samples are cheaper by the thousand, and so they are read; text is written by the batch.
    count = len(rows) if work.writing else work.read_rows
    stop = min(rows.start + count, work.plan.part_range(part).stop, samples)
    block = range(rows.start, stop)
    with ExitStack() as nothing_claimed:
        questions = read_questions(work, part, block, nothing_claimed)
        read_s, question = timed(partial(next, questions))
    ask_s, asked = timed(partial(_ask_and_wait, work, question))
    keep_s, kept = timed(partial(remember, work, question))
    return _Batch(kept, asked, len(block), read_s, ask_s, keep_s)


def _ask_and_wait(work: Work, question: Question) -> Asked:
    asked = ask(work, question.batch, question.views)
    if work.device.type != "cpu":
        torch.accelerator.synchronize(work.device)
    return asked


def _measure_files(work: Work, answered: _Answered, scratch: Path) -> _Files:
    """Build a part of one row and one of all: what they differ by is of rows, the rest of parts."""
    counts = np.concatenate([each.positions.counts for each in answered.batches])
    rows, varies = len(counts), bool((counts != counts[0]).any())
    single, whole = (_only(work, scratch, count) for count in (1, rows))
    load_s, _ = timed(partial(_build, single, answered))
    first_s, _ = timed(partial(_build, whole, answered))
    whole_s, built = timed(partial(_build, whole, answered))
    one_s, one = timed(partial(_build, single, answered))
    # Parts of as many positions share their layout, others have to work out their own.
    layout_s = max(0.0, first_s - whole_s)
    folder_s, (store_s, fetch_s) = timed(partial(_store, whole, built))
    once_s = max(0.0, load_s - one_s) + folder_s - store_s - fetch_s
    sizes = [sum(content.nbytes for _, content in each.contents) for each in (one, built)]
    row_bytes = (sizes[1] - sizes[0]) / max(1, rows - 1)
    return _Files(
        rows=rows,
        positions_a_row=float(counts.mean()),
        varies=varies,
        once_s=once_s + (0.0 if varies else layout_s),
        build_s=max(0.0, whole_s - one_s) / max(1, rows - 1),
        part_s=one_s + (layout_s if varies else 0.0),
        store_s=store_s,
        fetch_s=fetch_s / rows,
        row_bytes=row_bytes,
        part_bytes=max(0.0, sizes[0] - row_bytes),
    )


def _only(work: Work, folder: Path, rows: int) -> Work:
    """Plan a cache of one part of so many rows, all of one view."""
    about = dict(work.plan.about)
    if "views" in about:
        about["views"] = {**about["views"], "count": 1}
    plan = replace(work.plan, rows=rows, rows_per_part=rows, about=about)
    return replace(work, plan=plan, folder=folder)


def _build(work: Work, answered: _Answered) -> Built:
    """Build the part that holds the first rows of what was answered, as many as are planned."""
    count, batches = work.plan.rows, answered.batches
    if count == 1:
        batches = [_first(batches[0])]
    positions = sum(int(batch.positions.counts.sum()) for batch in batches)
    entries = {"rows": count, "positions": positions}
    axes = {field.name: field.axis for field in work.plan.fields}
    cut = {name: array[: entries[axes[name]]] for name, array in answered.arrays.items()}
    return build_rows(work, 0, batches, [cut])


def _first(rows: Rows) -> Rows:
    count = int(rows.positions.counts[0])
    positions = Positions(rows.positions.counts[:1], rows.positions.labels[:count])
    tokens = {name: array[:1] for name, array in rows.tokens.items()}
    return Rows(rows.ids[:1], rows.labels[:1], rows.digests[:1], rows.views[:1], positions, tokens)


def _store(work: Work, built: Built) -> tuple[float, float]:
    """Make a cache of one part; gives the seconds to store the part and to read its arrays."""
    write_plan(work.folder, work.plan, work.shape.shared)
    with claim_part(work.folder, 0):
        store_s, _ = timed(partial(store_part, built))
    finish(work.folder, work.plan)
    fetch_s, _ = timed(partial(open_cache(work.folder).read_part, 0))
    return store_s, fetch_s
