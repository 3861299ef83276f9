"""Three timed batches of the teacher, after one of warmth: asked and kept as the real pass does it.

The batches are spread over the first view of the data. What was kept of them is handed to `files`.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.caching.answer import Arrays, Asked, ask, concatenate, count_elements, encode_asked
from pipeline.caching.make import ENCODE_ELEMENTS, Question, Rows, read_questions, remember
from pipeline.caching.plan import Work
from pipeline.estimate.clock import timed, wait_for
from pipeline.estimate.costs import TeacherSeen
from pipeline.estimate.files import measure_files

TIMED_BATCHES = 3


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


def try_teacher(work: Work, startup_s: float, scratch: Path) -> Trial:
    """Time the teacher on three batches, and make a small cache of them in the folder `scratch`.

    Raises: TargetError if the teacher's logits are not finite; SampleError if samples changed since
        they were scanned.
    """
    samples = work.plan.rows if work.writing else len(work.samples)
    rows_per_part = work.plan.rows_per_part
    chosen = choose_batches(samples, rows_per_part, work.batch_size)
    answered = _answer(work, chosen, samples)
    files = measure_files(work, answered.batches, answered.arrays, scratch)
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
    wait_for(work.device)
    return asked
