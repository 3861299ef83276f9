"""Which classes a teacher finds alike, and the samples in which it does.

A pair is a first choice and another class that gets much of the softened distribution there. From
counts to pairs, and from pairs to the positions that show them best.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.report.answers import Answers
from pipeline.report.counts import Counts, Frame
from pipeline.report.names import Decode, NameOf
from pipeline.report.rows import Look, asked_tokens, has_tokens, task_of, token_rows
from pipeline.report.shares import class_shares
from pipeline.samples.text.tokens import PADDING, read_text
from pipeline.store import UNLABELLED, SampleTable
from pipeline.stream.tokens.cached import ROW
from pipeline.targets import Targets

MOST_PAIRS, MOST_EXAMPLES = 60, 12
SHOWN_CHOICES = 5
# A class that gets more beside another one gets so much more: less may be rounding.
LEAST_TIMES = 1.01
# Tokens before the one that is asked for, and, where they were seen, behind it.
CONTEXT = 40
# Stands for the token that is asked for, and for others that are.
BLANK, HIDDEN = "▯", "·"


@dataclass(frozen=True)
class Pair:
    """Where the first choice is `first`, the softened teacher gives `share` to `second`.

    `usual` is what it gives where its first choice is neither of the two, None if there is no such
    position. `part` and `position` are where `second` gets the most.
    """

    first: int
    second: int
    share: float
    usual: float | None
    count: int
    part: int
    position: int


@dataclass(frozen=True)
class Choice:
    """A class, and its probability at T = 1 and softened; of one left out as its tail says it."""

    name: str
    plain: float
    soft: float
    is_left_out: bool = False


@dataclass(frozen=True)
class Example:
    """A position, what the teacher was asked there, and what it answered.

    Of tokens `text` is what was seen, and a blank where one is asked for.
    """

    first: str
    second: str
    id: str
    label: str | None
    picture: bytes | None
    text: str | None
    choices: tuple[Choice, ...]


def soft_means(counts: Counts) -> Tensor:
    """Average the softened distributions of each first choice. Shapes: returns (A, A).

    A row of a class that is nowhere the first choice is NaN.
    """
    return counts.soft / counts.soft_count[:, None]


def find_pairs(frame: Frame, counts: Counts) -> list[Pair]:
    """Find the pairs whose second class gets the most, and more than elsewhere."""
    means, sums, total = soft_means(counts), counts.soft.sum(0), int(counts.soft_count.sum())
    pairs = []
    for a, b in np.ndindex(*means.shape):
        if a == b or not counts.soft_count[a]:
            continue
        others = total - int(counts.soft_count[a] + counts.soft_count[b])
        elsewhere = float(sums[b] - counts.soft[a, b] - counts.soft[b, b])
        usual = elsewhere / others if others else None
        share = float(means[a, b])
        if usual is None or share > LEAST_TIMES * usual:
            first, second = int(frame.classes[a]), int(frame.classes[b])
            where = int(counts.part[a, b]), int(counts.position[a, b])
            pairs.append(Pair(first, second, share, usual, int(counts.soft_count[a]), *where))
    return sorted(pairs, key=lambda pair: -pair.share)[:MOST_PAIRS]


def show_examples(
    answers: Answers,
    pairs: Sequence[Pair],
    temperature: float,
    *,
    name_of: NameOf,
    decode: Decode | None,
    look: Look | None,
) -> list[Example]:
    """Read the position that shows each of some pairs best; what was asked there, if it is known.

    Raises: CorruptPart if a part is damaged; SampleError if the data cannot be read.
    """
    show = partial(_choices, name_of=name_of, temperature=temperature)
    with torch.inference_mode():
        return [_example(answers, pair, show, name_of, decode, look) for pair in pairs]


def _example(
    answers: Answers,
    pair: Pair,
    show: Callable[[Targets, int], tuple[Choice, ...]],
    name_of: NameOf,
    decode: Decode | None,
    look: Look | None,
) -> Example:
    arrays, table, labels = answers.read(pair.part)
    targets = answers.decode(arrays, slice(pair.position, pair.position + 1))
    ends = np.cumsum(table.positions)
    row = int(np.searchsorted(ends, pair.position, side="right"))
    label = int(labels[pair.position])
    place = pair.position - int(ends[row] - table.positions[row])
    text = _text(answers, pair.part, table, row, place, decode)
    number = answers.cache.plan.part_range(pair.part).start + row
    seen = look(number, table.ids[row], table.digests[row]) if look and text is None else text
    return Example(
        first=name_of(pair.first),
        second=name_of(pair.second),
        id=_id(table, row, place),
        label=None if label == UNLABELLED else name_of(label),
        picture=seen if isinstance(seen, bytes) else None,
        text=seen if isinstance(seen, str) else None,
        choices=show(targets, pair.second),
    )


def _id(table: SampleTable, row: int, place: int) -> str:
    several = f", position {place}" if table.positions[row] > 1 else ""
    return table.ids[row] + (f", view {table.views[row]}" if table.views[row] else "") + several


def _text(
    answers: Answers,
    part: int,
    table: SampleTable,
    row: int,
    place: int,
    decode: Decode | None,
) -> str | None:
    """Spell out the row, or what was seen around the token of its `place`-th position."""
    if decode is None or not has_tokens(answers.cache):
        return None
    kept = answers.cache.read_part(part, ROW)
    found = token_rows(table, kept, answers.masks)[row]
    if task_of(answers.cache) == "label":
        return read_text(found, decode)
    return _around(found, place, decode)


def _around(row: NDArray[np.int32], place: int, decode: Decode) -> str:
    """Spell out what a model sees of a document around a token that is asked for.

    Shapes: row (2 or 3, L).
    """
    asked = asked_tokens(row)
    here = int(asked[place])
    document = np.flatnonzero((row[1] == row[1, here]) & (row[1] != PADDING))
    first, last = int(document[0]), int(document[-1])
    start, end = max(first, here - CONTEXT), here
    text = decode(row[0, start:end].tolist()) + BLANK
    if len(row) == 3:
        end = min(last + 1, here + CONTEXT)
        text = _spell(row[0, start:end], start, asked, here, decode)
    return ("… " if start > first else "") + text + ("" if len(row) == 2 or end > last else " …")


def _spell(
    ids: NDArray[np.int32], start: int, asked: NDArray[np.int64], here: int, decode: Decode
) -> str:
    """Decode tokens in runs, with signs for those that are asked for."""
    pieces, run = list[str](), list[int]()
    hidden = set(asked.tolist())
    for place, token in enumerate(ids.tolist(), start):
        if place not in hidden:
            run.append(token)
            continue
        pieces += [decode(run) if run else "", BLANK if place == here else HIDDEN]
        run = []
    return "".join([*pieces, decode(run) if run else ""])


def _choices(
    targets: Targets, also: int, *, name_of: NameOf, temperature: float
) -> tuple[Choice, ...]:
    """List the first classes of one position, and one more that is spoken of."""
    kept = targets.logits[0].topk(min(SHOWN_CHOICES, _kept_count(targets))).indices
    classes = kept if targets.classes is None else targets.classes[0, kept]
    if not len(classes):
        classes = targets.top_classes()
    wanted = list(dict.fromkeys([*classes.tolist(), also]))
    plain, soft = (
        class_shares(targets, torch.tensor(wanted), each)[0].tolist() for each in (1.0, temperature)
    )
    known = wanted if targets.classes is None else targets.classes[0].tolist()
    left_out = [each not in known for each in wanted]
    named = zip(map(name_of, wanted), plain, soft, left_out, strict=True)
    return tuple(Choice(*each) for each in named)


def _kept_count(targets: Targets) -> int:
    return targets.logits.shape[1] if targets.count is None else int(targets.count[0])
