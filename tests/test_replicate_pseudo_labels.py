"""What scripts/replicate pseudo-labels and promises compare, and what they make of the numbers."""

from dataclasses import replace
from pathlib import Path

import pytest

from replication import promises, pseudo_labels

WARNED = ("unbalanced", "sure")
PLAIN = pseudo_labels.Students(0, 0.96, 0.8, 0.89, 0.91, 0.93, 0.84, 0.82, 0.65, WARNED)


def students(**changes: object) -> list[pseudo_labels.Students]:
    one = replace(PLAIN, **changes)  # type: ignore[arg-type]
    return [replace(one, seed=seed) for seed in range(3)]


def test_pseudo_labels_that_help_and_harm_where_they_should_are_enough() -> None:
    report = pseudo_labels.report(students())
    assert report.is_met
    text = report.text()
    assert "labels, soft pseudo-labels and noise over labels: +4.00 points" in text
    assert "balanced over not: +2.00 points" in text
    assert "alone and not balanced, over labels: -24.00 points" in text


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"both": 0.898}, "lower end of the gain's interval, points: 0.8 (> 1)"),
        ({"balanced": 0.82}, "lower end of the interval of balance, points: 0 (> 0)"),
        ({"sure": 0.9}, "upper end of the interval of being alone, points: -1 (> 0)"),
        ({"warned": ()}, "runs warned of, of the sure: 0 (>= 1)"),
        ({"warned": (*WARNED, "balanced")}, "others warned of: 1 (<= 0)"),
    ],
    ids=["gain", "balance", "harm", "silence", "false alarm"],
)
def test_what_is_not_so_is_missed(changes: dict[str, object], missed: str) -> None:
    report = pseudo_labels.report(students(**changes))
    assert [bar.line() for bar in report.bars if not bar.is_met] == [f"MISSED  {missed}"]


def test_labelled_and_unlabelled_digits_of_a_seed_share_none(tmp_path: Path) -> None:
    made = pseudo_labels.recipe(tmp_path, 3, {"run.path": tmp_path / "run"})
    few, rest = (made.data[name].subset for name in ("labelled", "unlabelled"))
    assert few
    assert rest
    assert (few.count, few.seed, few.skip) == (100, 3, 0)
    assert (rest.count, rest.seed, rest.skip) == (None, 3, 100)
    assert made.training
    assert made.training.seed == 3


def splits(*precisions: float, gain: float = 3.0) -> list[promises.Split]:
    return [
        promises.Split(
            seed,
            0.84,
            (0.06, 0.04),
            0.6,
            precision,
            0.01,
            0.4,
            0.8,
            0.79,
            0.8 + (gain + seed % 2) / 100,
        )
        for seed, precision in enumerate(precisions)
    ]


def test_one_promise_of_twenty_may_be_broken() -> None:
    report = promises.report(splits(*[0.96] * 19, 0.94))
    assert report.is_met
    assert report.text().count("BROKEN") == 1


def test_two_promises_of_twenty_may_not() -> None:
    report = promises.report(splits(*[0.96] * 18, 0.94, 0.9499))
    assert not report.is_met
    assert "MISSED  share of the promises kept: 0.9 (>= 0.95)" in report.text()


def test_promises_made_again_may_not_be_broken_more_often_than_they_say() -> None:
    often = [replace(each, broken=0.06) for each in splits(*[0.96] * 3)]
    missed = [bar.line() for bar in promises.report(often).bars if not bar.is_met]
    assert missed == ["MISSED  share broken, made again: 0.06 (<= 0.05)"]


def test_a_split_that_kept_nothing_broke_no_promise() -> None:
    nothing = replace(splits(0.96)[0], kept=0.0, precision=0.0)
    assert nothing.holds


def test_students_that_gain_nothing_are_missed() -> None:
    assert not promises.report(splits(0.96, 0.96, 0.96, gain=-0.5)).is_met


def test_the_three_parts_of_fashion_mnist_share_no_image(tmp_path: Path) -> None:
    made = promises.recipe(tmp_path, 5, {})
    labelled, calibration, unlabelled = (
        made.data[name].subset for name in ("labelled", "calibration", "unlabelled")
    )
    assert labelled
    assert calibration
    assert unlabelled
    assert (labelled.count, labelled.skip) == (1000, 0)
    assert (calibration.count, calibration.skip) == (300, 700)
    assert (unlabelled.count, unlabelled.skip) == (None, 1000)
    assert getattr(made.data["unlabelled"], "labels", None) is None
    assert made.pseudo_labels
    assert made.pseudo_labels.rule.model_dump()["at_least"] == promises.PROMISED
