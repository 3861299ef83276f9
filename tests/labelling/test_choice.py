"""What becomes of every row, against a slow choice with lists."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.errors import TargetError
from pipeline.labelling.answers import ANSWER, Answers
from pipeline.labelling.choice import REASONS, Choice, Decider, choose
from pipeline.labelling.rules import Wanted, find_limits

CLASSES = 4


def make_answers(count: int, seed: int = 0) -> Answers:
    """Draw answers; the last class never occurs, the others are as 6 to 3 to 1."""
    random = np.random.default_rng(seed)
    answers = np.empty(count, ANSWER)
    answers["label"] = random.choice(CLASSES, count, p=[0.6, 0.3, 0.1, 0.0])
    # Few values, so that many rows are equally sure.
    sure = random.integers(1, 20, count) / 20
    answers["doubt"] = -np.log(sure)
    answers["margin"] = sure * random.random(count)
    answers["entropy"] = 1 - sure
    return answers


def decide(
    answers: Answers, kind: str, *, block: int = 37, **options: Any
) -> tuple[Choice, np.ndarray, list[str | None]]:
    names = ("balanced", "most_per_class", "most")
    asked = {name: options.pop(name) for name in names if name in options}
    wanted = Wanted(kind, options, **asked)

    def walk() -> Iterator[Answers]:
        for start in range(0, len(answers), block):
            yield answers[start : start + block]

    choice = choose(walk, wanted, find_limits(wanted, CLASSES, None, "rule"))
    decider = Decider(choice)
    found = [decider.decide(each) for each in walk()]
    copies = np.concatenate([each for each, _ in found])
    return choice, copies, [REASONS[each] for each in np.concatenate([each for _, each in found])]


def surest(answers: Answers, rows: list[int], count: int, by: str = "doubt") -> set[int]:
    sign = -1 if by == "margin" else 1
    return set(sorted(rows, key=lambda row: (sign * answers[by][row], row))[:count])


def test_a_threshold_keeps_every_row_that_reaches_it() -> None:
    answers = make_answers(200)
    choice, copies, reasons = decide(answers, "threshold", at_least=0.5)
    reaches = np.exp(-answers["doubt"]) >= np.float32(0.5)
    assert np.array_equal(copies, reaches.astype(int))
    assert reasons == [None if each else "below_limit" for each in reaches]
    assert choice.admitted.tolist() == np.bincount(answers["label"][reaches], minlength=4).tolist()


def test_a_margin_keeps_rows_by_their_margin() -> None:
    answers = make_answers(200)
    _, copies, _ = decide(answers, "margin", at_least=0.3, most_per_class=5)
    for label in range(3):
        rows = np.flatnonzero((answers["label"] == label) & (answers["margin"] >= 0.3)).tolist()
        assert set(np.flatnonzero((copies > 0) & (answers["label"] == label))) == surest(
            answers, rows, 5, "margin"
        )


def test_all_keeps_every_row_once() -> None:
    _, copies, reasons = decide(make_answers(100), "all")
    assert copies.tolist() == [1] * 100
    assert set(reasons) == {None}


@pytest.mark.parametrize("block", [1, 37, 1000])
def test_per_class_takes_the_surest_and_repeats_them_where_they_are_too_few(block: int) -> None:
    answers = make_answers(200)
    _, copies, reasons = decide(answers, "per_class", count=50, block=block)
    for label in range(3):
        rows = np.flatnonzero(answers["label"] == label).tolist()
        taken = surest(answers, rows, 50)
        assert copies[rows].sum() == 50
        assert set(np.flatnonzero((copies > 0) & (answers["label"] == label))) == taken
        once_more = surest(answers, list(taken), 50 % len(taken))
        for row in taken:
            assert copies[row] == 50 // len(taken) + (row in once_more)
    assert {reasons[row] for row in np.flatnonzero(copies == 0)} == {"class_is_full"}


def test_balanced_classes_count_as_often_as_all_do_on_average() -> None:
    answers = make_answers(300)
    choice, copies, _ = decide(answers, "threshold", at_least=0.5, balanced=True)
    mean = int(choice.admitted.sum()) // 3
    assert np.bincount(answers["label"], copies, minlength=4).tolist() == [mean, mean, mean, 0]
    assert (copies[np.exp(-answers["doubt"]) < 0.49] == 0).all()


@pytest.mark.parametrize(
    ("options", "each"),
    [({"most_per_class": 12}, 12), ({"most": 30}, 10), ({"most": 30, "most_per_class": 8}, 8)],
    ids=["most per class", "most", "both"],
)
def test_balanced_classes_are_capped_alike(options: dict[str, int], each: int) -> None:
    answers = make_answers(300)
    _, copies, _ = decide(answers, "all", balanced=True, **options)
    assert np.bincount(answers["label"], copies, minlength=4).tolist() == [each] * 3 + [0]


def test_fewer_rows_than_classes_cannot_be_balanced() -> None:
    with pytest.raises(TargetError, match="2 rows cannot be balanced over 3 classes; ask for 3"):
        decide(make_answers(300), "all", balanced=True, most=2)
    _, copies, _ = decide(make_answers(300), "all", balanced=True, most=3)
    assert copies.sum() == 3


def test_the_most_of_all_are_the_surest_of_all_that_classes_have_room_for() -> None:
    answers = make_answers(300)
    _, copies, reasons = decide(answers, "all", most_per_class=40, most=50)
    room = [
        row
        for label in range(3)
        for row in surest(answers, np.flatnonzero(answers["label"] == label).tolist(), 40)
    ]
    assert set(np.flatnonzero(copies)) == surest(answers, room, 50)
    assert reasons.count("over_most") == len(room) - 50


def test_other_rows_are_chosen_by_the_same_limits_and_ends() -> None:
    answers = make_answers(300)
    choice, copies, _ = decide(answers, "threshold", at_least=0.2, most_per_class=30)
    would = choice.would_choose(answers)
    assert would[copies > 0].all()
    # Rows as sure as the last one that was taken are alike, whichever came first.
    for row in np.flatnonzero(would & (copies == 0)):
        same = answers["label"] == answers["label"][row]
        assert answers["doubt"][row] == answers["doubt"][same & (copies > 0)].max()
