"""Metrics against loops, and sums over batches against the whole."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.metrics import tally


def draw(positions: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(positions, 6, generator=generator) * 3
    labels = torch.randint(-1, 6, (positions,), generator=generator)
    return logits, labels, torch.randint(6, (positions,), generator=generator)


def slow_calibration_error(logits: Tensor, labels: Tensor) -> float:
    probs = logits.softmax(1).tolist()
    answers = [
        (max(row), row.index(max(row)) == label)
        for row, label in zip(probs, labels.tolist(), strict=True)
        if label >= 0
    ]
    error = 0.0
    for low in range(15):
        bin_ = [(c, hit) for c, hit in answers if low <= c * 15 < low + 1 or (low == 14 and c == 1)]
        if bin_:
            gap = sum(c for c, _ in bin_) / len(bin_) - sum(hit for _, hit in bin_) / len(bin_)
            error += abs(gap) * len(bin_) / len(answers)
    return error


def test_perplexity_is_the_number_of_classes_one_could_guess_from() -> None:
    assert tally(torch.zeros(3, 8), torch.tensor([1, 5, -1])).perplexity == pytest.approx(8)
    assert tally(torch.zeros(1, 8), torch.tensor([-1])).perplexity is None
    assert tally(torch.tensor([[0.0, 1e4]]), torch.tensor([0])).perplexity is None


def test_accuracy_counts_labelled_positions_only() -> None:
    logits = torch.eye(4)
    assert tally(logits, torch.tensor([0, 1, 3, -1])).accuracy == pytest.approx(2 / 3)


def test_negative_log_likelihood_is_the_mean_surprise() -> None:
    logits, labels = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([1, 0])
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert tally(logits, labels).negative_log_likelihood == pytest.approx(expected)


def test_agreement_compares_first_choices() -> None:
    first = torch.tensor([0, 1, 2, 0])
    assert tally(torch.eye(4), torch.full((4,), -1), first).agreement == 0.75


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_its_formula(seed: int) -> None:
    logits, labels, _ = draw(200, seed)
    slow = slow_calibration_error(logits, labels)
    assert tally(logits, labels).expected_calibration_error == pytest.approx(slow, abs=1e-6)


def test_a_certain_and_right_model_is_calibrated() -> None:
    assert tally(torch.eye(5) * 1e4, torch.arange(5)).expected_calibration_error == 0.0


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_tallies_of_two_batches_add_up_to_the_whole(seed: int, first: int) -> None:
    logits, labels, teacher = draw(40, seed)
    whole = tally(logits, labels, teacher)
    parts = [
        tally(logits[part], labels[part], teacher[part])
        for part in (slice(0, first), slice(first, 40))
    ]
    both = parts[0] + parts[1]
    assert (both.accuracy, both.agreement) == (whole.accuracy, whole.agreement)
    assert both.negative_log_likelihood == pytest.approx(whole.negative_log_likelihood)
    assert both.expected_calibration_error == pytest.approx(whole.expected_calibration_error)


def test_numbers_without_positions_are_none() -> None:
    logits, labels = torch.zeros(2, 3), torch.tensor([-1, -1])
    assert tally(logits, labels).accuracy is None
    assert tally(logits, labels).negative_log_likelihood is None
    assert tally(logits, labels).expected_calibration_error is None
    assert tally(logits, labels).agreement is None
