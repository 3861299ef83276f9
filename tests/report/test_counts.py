"""What is counted of a cache, against sums written out position by position."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSES, make_cache, make_logits, make_samples

from pipeline.metrics import calibration_error
from pipeline.report.answers import Answers, count_cache, readings
from pipeline.report.counts import CHOSEN, CONFIDENCE, LABELLED, MASS_TEMPERATURES, RIGHT
from pipeline.store import Cache

ROWS = 67


def stored(cache: Cache, name: str) -> np.ndarray:
    parts: list[Any] = [cache.read_part(part)[name] for part in range(cache.plan.part_count)]
    whole: np.ndarray = np.concatenate(parts)
    return whole


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp(logits / temperature)
    shares: np.ndarray = powers / powers.sum()
    return shares


@pytest.fixture
def whole(tmp_path: Path) -> Cache:
    """All classes of 67 rows in parts of 8; the label of row i is i modulo 5."""
    return make_cache(tmp_path / "cache", make_samples(ROWS), rows_per_part=8, k=CLASSES)


def test_certainty_is_that_of_every_position(whole: Cache) -> None:
    frame, counts = count_cache(Answers(whole), 1, lambda parts: None)
    confidences, entropies = np.zeros(20, int), np.zeros(40, int)
    sure, unsure = 0.0, 0.0
    for row in range(ROWS):
        confidence, entropy = (float(stored(whole, n)[row]) for n in ("confidence", "entropy"))
        confidences[min(19, math.floor(20 * confidence))] += 1
        entropies[min(39, math.floor(40 * entropy / math.log(CLASSES)))] += 1
        sure, unsure = sure + confidence, unsure + entropy
    assert counts.positions == ROWS
    assert counts.confidences.tolist() == confidences.tolist()
    assert counts.entropies.tolist() == entropies.tolist()
    assert counts.confidence_sum == pytest.approx(sure)
    assert counts.entropy_sum == pytest.approx(unsure)
    assert frame.classes.tolist() == list(range(CLASSES))


def test_classes_are_counted_one_by_one(whole: Cache) -> None:
    _, counts = count_cache(Answers(whole), 1, lambda parts: None)
    expected = np.zeros((4, CLASSES + 1))
    gaps = np.zeros((3, 15))
    for row in range(ROWS):
        first, label = int(stored(whole, "logits")[row].argmax()), row % CLASSES
        confidence = float(stored(whole, "confidence")[row])
        expected[CHOSEN, first] += 1
        expected[CONFIDENCE, first] += confidence
        expected[LABELLED, label] += 1
        expected[RIGHT, label] += first == label
        place = min(14, int(15 * confidence))
        gaps[:, place] += [1, confidence, first == label]
    np.testing.assert_allclose(counts.classes.numpy(), expected)
    np.testing.assert_allclose(counts.reliability.numpy(), gaps)
    error = sum(abs(each[1] - each[2]) for each in gaps.T) / ROWS
    assert calibration_error(counts.reliability) == pytest.approx(error)
    assert counts.labelled == ROWS


def test_a_row_of_the_matrix_is_the_mean_distribution_of_one_first_choice(whole: Cache) -> None:
    frame, counts = count_cache(Answers(whole), 1, lambda parts: None)
    sums, best = np.zeros((CLASSES, CLASSES)), np.full((CLASSES, CLASSES), -1.0)
    where = np.full((CLASSES, CLASSES), -1)
    for row, logits in enumerate(stored(whole, "logits").astype(np.float64)):
        shares, first = softmax(logits, frame.temperature), int(logits.argmax())
        sums[first] += shares
        where[first] = np.where(shares > best[first], row, where[first])
        best[first] = np.maximum(best[first], shares)
    np.testing.assert_allclose(counts.soft.numpy(), sums, rtol=1e-5)
    np.testing.assert_allclose(counts.best.numpy(), best, rtol=1e-5)
    rows = counts.part * whole.plan.rows_per_part + counts.position
    assert rows.tolist() == where.tolist()


def test_kept_mass_is_that_of_the_kept_classes(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", make_samples(ROWS), rows_per_part=8, k=2)
    _, counts = count_cache(Answers(cache), 1, lambda parts: None)
    for place, temperature in enumerate(MASS_TEMPERATURES):
        masses = []
        for logits in make_logits(ROWS).double():
            shares = sorted((logits / temperature).softmax(0).tolist(), reverse=True)
            masses.append(shares[0] + shares[1])
        assert counts.mass_sum[place] / ROWS == pytest.approx(np.mean(masses), abs=2e-3)
        assert counts.mass_count[place] == ROWS
        # Those that rounding may have put into the next bin.
        near = sum(abs(20 * each - round(20 * each)) < 0.05 for each in masses)
        expected = np.bincount([min(19, int(20 * each)) for each in masses], minlength=20)
        assert np.abs(counts.masses[place].numpy() - expected).sum() <= 2 * near


def test_of_all_classes_there_is_no_kept_mass_to_speak_of(whole: Cache) -> None:
    frame, counts = count_cache(Answers(whole), 1, lambda parts: None)
    assert not frame.keeps_some
    assert counts.mass_count.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("rows_per_part", [3, 10, ROWS])
@pytest.mark.parametrize("threads", [1, 3])
def test_counts_do_not_depend_on_parts_or_threads(
    whole: Cache, tmp_path: Path, rows_per_part: int, threads: int
) -> None:
    other = make_cache(
        tmp_path / "other", make_samples(ROWS), rows_per_part=rows_per_part, k=CLASSES
    )
    _, expected = count_cache(Answers(whole), 1, lambda parts: None)
    told = list[int]()
    _, counts = count_cache(Answers(other), threads, told.append)
    assert sum(told) == other.plan.part_count
    for name in ("confidences", "entropies", "soft_count"):
        assert getattr(counts, name).tolist() == getattr(expected, name).tolist()
    torch.testing.assert_close(counts.soft, expected.soft)
    torch.testing.assert_close(counts.classes, expected.classes)


def test_of_many_classes_the_most_frequent_first_choices_are_shown(tmp_path: Path) -> None:
    logits = torch.randn(400, 60, generator=torch.Generator().manual_seed(0))
    logits += torch.linspace(1.5, -1.5, 60)  # early classes are chosen more often
    cache = make_cache(tmp_path / "cache", make_samples(400), rows_per_part=64, k=4, logits=logits)
    answers = Answers(cache)
    frame, counts = count_cache(answers, 1, lambda parts: None)
    first = np.bincount(logits.argmax(1).numpy(), minlength=60)
    order = sorted(range(60), key=lambda each: (-first[each], each))
    assert readings(answers) == 2
    assert frame.matrix == min(40, int((first > 0).sum()))
    assert frame.classes.tolist() == order
    assert counts.soft_count.tolist() == [first[each] for each in order[: frame.matrix]]
    assert counts.classes[CHOSEN, :60].tolist() == [first[each] for each in order]


def test_labels_that_are_not_there_are_not_counted(tmp_path: Path) -> None:
    samples = replace(make_samples(20), label_rows=None)
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=8, k=CLASSES)
    _, counts = count_cache(Answers(cache), 1, lambda parts: None)
    assert counts.labelled == 0
