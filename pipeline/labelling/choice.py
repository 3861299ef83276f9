"""Which rows get a pseudo-label, and how often each counts in an epoch: limits, balance and caps.

A few walks over the answers, which lie in a temporary file; then one that says of every row what
becomes of it. It knows no files of tables.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TargetError
from pipeline.labelling.answers import Answers
from pipeline.labelling.ranking import Cut, Rows, Taker, Whole, select, sortable
from pipeline.labelling.rules import Limits, Wanted

# Why a row has no pseudo-label, by number; the first is why it has one.
REASONS = (None, "below_limit", "class_is_full", "over_most")
BELOW, FULL, OVER = 1, 2, 3
# What `Choice` reads the answers with: all of them, in order, a block at a time.
Walk = Callable[[], Iterator[Answers]]


@dataclass(frozen=True)
class Choice:
    """What was decided: limits, where each class ends, and how often a row is repeated.

    Shapes: copies and admitted (C,); predicted (C,), rows that the teacher calls so.
    """

    wanted: Wanted
    limits: Limits
    predicted: Whole
    admitted: Whole
    classes: Cut
    # Of each class so many copies of every row, and one more of the surest.
    copies: Whole
    surest: Cut | None = None
    most: Cut | None = None

    def keys(self, answers: Answers) -> NDArray[np.uint32]:
        """Order rows by how sure they are, the surest lowest. Shapes: returns (n,)."""
        by_margin = self.wanted.kind == "margin"
        return sortable(1 - answers["margin"] if by_margin else answers["doubt"])

    def would_choose(self, answers: Answers) -> NDArray[np.bool_]:
        """Mark rows of other data that the same limits and ends would choose. Shapes: (n,)."""
        keys, chosen = self.keys(answers), self.limits.admit(answers)
        chosen &= keys <= self.classes.keys[answers["label"]]
        return chosen if self.most is None else chosen & (keys <= self.most.keys[0])


@dataclass
class Decider:
    """What says of every row what becomes of it; it must be shown all of them, in order."""

    choice: Choice
    _classes: Taker = field(init=False)
    _most: Taker | None = field(init=False)
    _surest: Taker | None = field(init=False)

    def __post_init__(self) -> None:
        cuts = self.choice.classes, self.choice.most, self.choice.surest
        self._classes = Taker(cuts[0])
        self._most, self._surest = (Taker(cut) if cut else None for cut in cuts[1:])

    def decide(self, answers: Answers) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
        """Count copies, and give the number of the reason where there are none.

        Shapes: answers (n,); returns (n,) twice.
        """
        choice, keys, labels = self.choice, self.choice.keys(answers), _labels(answers)
        reasons = np.where(choice.limits.admit(answers), 0, BELOW).astype(np.int8)
        reasons[(reasons == 0) & ~self._classes.take(_group(labels, reasons), keys)] = FULL
        if self._most:
            one = np.where(reasons == 0, 0, -1)
            reasons[(reasons == 0) & ~self._most.take(one, keys)] = OVER
        copies = np.where(reasons == 0, choice.copies[labels], 0)
        if self._surest:
            copies += self._surest.take(_group(labels, reasons), keys)
        return copies.astype(np.int32), reasons


def choose(walk: Walk, wanted: Wanted, limits: Limits) -> Choice:
    """Decide how far each class goes.

    Balanced, every class that has any counts equally often: as often as the rule says, or as
    classes have rows on average; the surest first, repeated where there are too few.

    Raises: TargetError if fewer rows are to be kept than there are classes to balance.
    """
    class_count = len(limits.doubts)
    predicted, admitted = _count(walk, limits, class_count)
    per_class = _per_class(wanted, admitted)
    ends = np.minimum(admitted, wanted.most_per_class or admitted.max(initial=0))
    taken = ends if per_class is None else np.minimum(admitted, per_class)
    ones = np.ones(class_count, np.int64)
    choice = Choice(wanted, limits, predicted, admitted, Cut(ones << 32, 0 * ones), ones)

    def in_class() -> Iterator[Rows]:
        for answers in walk():
            admits = np.where(limits.admit(answers), 0, BELOW)
            yield _group(_labels(answers), admits), choice.keys(answers)

    if (taken < admitted).any():
        choice = replace(choice, classes=select(in_class, taken))
    if per_class is not None:
        has_any = np.maximum(taken, 1)
        choice = replace(choice, copies=per_class // has_any)
        if (rest := np.where(taken > 0, per_class % has_any, 0)).any():
            choice = replace(choice, surest=select(in_class, rest))
    elif wanted.most is not None and int(taken.sum()) > wanted.most:
        before = choice

        def in_all() -> Iterator[Rows]:
            decider = Decider(before)
            for answers in walk():
                is_in = decider.decide(answers)[0] > 0
                yield np.where(is_in, 0, -1), before.keys(answers)

        choice = replace(choice, most=select(in_all, np.array([wanted.most])))
    return choice


def _count(walk: Walk, limits: Limits, class_count: int) -> tuple[Whole, Whole]:
    predicted, admitted = np.zeros(class_count, np.int64), np.zeros(class_count, np.int64)
    for answers in walk():
        predicted += np.bincount(answers["label"], minlength=class_count)
        admits = limits.admit(answers)
        admitted += np.bincount(answers["label"][admits], minlength=class_count)
    return predicted, admitted


def _per_class(wanted: Wanted, admitted: Whole) -> int | None:
    """Say how often every class counts, None where each counts as often as it has rows."""
    there = int((admitted > 0).sum())
    if wanted.per_class is None and not (wanted.balanced and there):
        return None
    count = wanted.per_class or int(admitted.sum()) // there
    count = min(count, wanted.most_per_class or count)
    if wanted.most is None or not there:
        return count
    if wanted.most < there:
        raise TargetError(
            f"pseudo_labels.most: {wanted.most} rows cannot be balanced over {there} classes; ask "
            f"for {there} or more, or leave balanced out"
        )
    return min(count, wanted.most // there)


def _labels(answers: Answers) -> Whole:
    return answers["label"].astype(np.int64)


def _group(labels: Whole, reasons: NDArray[np.integer]) -> Whole:
    return np.where(reasons == 0, labels, -1)
