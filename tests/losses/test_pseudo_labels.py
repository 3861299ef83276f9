import math

import pytest
import torch

from pipeline.errors import TargetError
from pipeline.losses import fused_losses, hard_labels, pseudo_labels
from pipeline.losses.pseudo_labels import count_pseudo, pseudo_labels_term
from pipeline.targets import PseudoLabels

LABELS = torch.tensor([2, -1, 0, 3, 1])
WEIGHTS = torch.tensor([1.0, 0.7, 0.25, 0.5, 0.0])


def make_logits() -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_each_position_counts_as_it_weighs_and_one_without_a_label_not_at_all() -> None:
    logits, total = make_logits(), 0.0
    for row, label, weight in zip(logits.tolist(), LABELS.tolist(), WEIGHTS.tolist(), strict=True):
        if label >= 0:
            total += weight * (math.log(sum(map(math.exp, row))) - row[label])
    found = pseudo_labels(logits, PseudoLabels(LABELS, WEIGHTS))
    assert float(found) == pytest.approx(total / 1.75)
    assert float(count_pseudo(PseudoLabels(LABELS, WEIGHTS))) == 1.75


def test_with_weights_of_1_they_are_hard_labels() -> None:
    ones = PseudoLabels(LABELS, torch.ones(5))
    logits = make_logits().requires_grad_()
    (ours,) = torch.autograd.grad(pseudo_labels(logits, ones), [logits])
    (theirs,) = torch.autograd.grad(hard_labels(logits, LABELS), [logits])
    assert torch.allclose(ours, theirs)


def test_the_gradient_is_that_of_the_value() -> None:
    logits = make_logits().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: pseudo_labels(x, PseudoLabels(LABELS, WEIGHTS.double())), (logits,)
    )


def test_in_chunks_from_states_it_is_the_same() -> None:
    layer = torch.nn.Linear(3, 4).double()
    states = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    term = pseudo_labels_term(PseudoLabels(LABELS, WEIGHTS))
    (total,), derivatives = fused_losses(states, layer, [(1.0, term)])
    whole = pseudo_labels(layer(states), PseudoLabels(LABELS, WEIGHTS))
    assert float(total * term.factor) == pytest.approx(float(whole.detach()))
    for found, expected in zip(
        derivatives, torch.autograd.grad(whole, list(layer.parameters())), strict=True
    ):
        torch.testing.assert_close(found[1], expected)


def test_none_at_all_is_0_without_a_gradient() -> None:
    logits = make_logits().requires_grad_()
    loss = pseudo_labels(logits, PseudoLabels(torch.full((5,), -1), WEIGHTS))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_pseudo_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(
        TargetError, match=r"^pseudo_labels: 1 labels are not classes of the student: 4 at position"
    ):
        pseudo_labels(make_logits(), PseudoLabels(LABELS + (LABELS == 3), WEIGHTS))


def test_labels_of_other_positions_are_refused() -> None:
    with pytest.raises(
        TargetError, match=r"^pseudo_labels: labels have shape \(5,\); .* so \(4,\) is needed"
    ):
        pseudo_labels(make_logits()[:4], PseudoLabels(LABELS, WEIGHTS))
