"""Logits in 8 bits: never farther from what they were than the theorem allows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.targets.rounding import FARTHEST, LOWEST_LOGIT, pack_logits, unpack_logits

rows = st.lists(st.floats(-FARTHEST, 0.0, width=32), min_size=1, max_size=40)


def rounded(logits: Tensor) -> Tensor:
    return unpack_logits(*pack_logits(logits))


@given(rows, st.sampled_from([1.0, 2.0, 4.0]))
def test_divergence_is_below_the_bound(row: list[float], temperature: float) -> None:
    logits = torch.tensor([[0.0, *row]], dtype=torch.float64)
    _, ranges = pack_logits(logits)
    step = float(ranges) / 254
    back = rounded(logits).double()
    assert float((back - logits).abs().max()) <= step / 2 * (1 + 1e-5) + 1e-6
    p, q = (logits / temperature).log_softmax(1), (back / temperature).log_softmax(1)
    divergence = float((p.exp() * (p - q)).sum())
    # Hoeffding: log E e^d - E d <= D^2 / 8 for d within a span of D.
    assert divergence <= (step / temperature) ** 2 / 8 + 1e-9


def test_ends_of_the_range_come_back() -> None:
    back = rounded(torch.tensor([[0.0, -12.5], [0.0, 0.0], [0.0, -100.0]]))
    assert back.tolist() == [[0.0, -12.5], [0.0, 0.0], [0.0, -100.0]]


@given(rows)
def test_order_is_kept(row: list[float]) -> None:
    logits = torch.tensor([sorted([0.0, *row], reverse=True)])
    back = rounded(logits)[0]
    assert bool((back[1:] <= back[:-1]).all())


def test_no_range_is_too_short_for_its_farthest_class() -> None:
    farthest = torch.linspace(0.001, FARTHEST, 4001)
    _, ranges = pack_logits(torch.stack([torch.zeros(4001), -farthest], 1))
    assert bool((ranges.float() >= farthest).all())
    assert float((ranges.float() / farthest).max()) < 1.002


def test_classes_that_were_switched_off_stay_so_and_cost_the_others_nothing() -> None:
    back = rounded(torch.tensor([[0.0, -3.0, -1e4, LOWEST_LOGIT]]))
    assert back.tolist() == [[0.0, pytest.approx(-3.0), LOWEST_LOGIT, LOWEST_LOGIT]]
    assert math.exp(LOWEST_LOGIT / 20) == 0.0


def test_no_positions_are_no_codes() -> None:
    codes, ranges = pack_logits(torch.empty(0, 3))
    assert (codes.shape, ranges.shape) == ((0, 3), (0,))
