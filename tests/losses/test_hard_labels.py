"""Hard labels against loops, and the positions that have none."""

import math
from typing import Any

import pytest
import torch

from pipeline.errors import TargetError
from pipeline.losses import LOSSES, hard_labels
from pipeline.losses.hard_labels import hard_labels_term
from pipeline.targets import MixedLabels, PseudoLabels, Targets


def draw(positions: int, class_count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(positions, class_count, generator=generator, dtype=torch.float64)


def test_the_loss_is_the_mean_surprise_over_labelled_positions() -> None:
    logits, labels = draw(4, 5), [3, -1, 0, 4]
    surprises = [
        math.log(sum(math.exp(x) for x in row)) - row[label]
        for row, label in zip(logits.tolist(), labels, strict=True)
        if label >= 0
    ]
    loss = hard_labels(logits, torch.tensor(labels))
    assert loss.item() == pytest.approx(sum(surprises) / 3, rel=1e-12)


def test_gradients_are_the_derivatives() -> None:
    labels = torch.tensor([1, -1, 2])
    logits = draw(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: hard_labels(s, labels), (logits,))


@pytest.mark.parametrize("labels", [[], [-1], [-1, -1, -1]], ids=len)
@pytest.mark.parametrize("count", [None, 0, 5.0])
def test_no_labels_cost_nothing(labels: list[int], count: float | None) -> None:
    logits = torch.randn(len(labels), 4, requires_grad=True)
    loss = hard_labels(logits, torch.tensor(labels, dtype=torch.int64), count=count)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0.0
    assert torch.equal(slope, torch.zeros_like(logits))


def test_unequal_micro_batches_add_up_to_the_whole() -> None:
    logits, labels = draw(9, 5), torch.tensor([0, -1, 2, 3, -1, -1, 4, 1, 1])
    count = LOSSES["hard_labels"].count(labels)
    parts = [slice(0, 2), slice(2, 6), slice(6, 9)]
    total = sum(hard_labels(logits[part], labels[part], count=count).item() for part in parts)
    assert total == pytest.approx(hard_labels(logits, labels).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_students_are_widened_first(dtype: torch.dtype) -> None:
    logits, labels = draw(6, 5).to(dtype), torch.tensor([0, 1, 2, 3, 4, -1])
    assert torch.equal(hard_labels(logits, labels), hard_labels(logits.float(), labels))


def test_labels_that_are_not_classes_are_counted_and_named() -> None:
    expected = (
        "hard_labels: 7 labels are not classes of the student: 4 at position 0, -2 at position 1, "
        "9 at position 3, 9 at position 4, 9 at position 5 and 2 more; allowed are 0 to 3, and -1 "
        "for none. Give the student the classes of the data."
    )
    with pytest.raises(TargetError) as caught:
        hard_labels(torch.zeros(8, 4), torch.tensor([4, -2, 0, 9, 9, 9, 9, 9]))
    assert str(caught.value) == expected


def test_another_number_of_labels_is_refused() -> None:
    with pytest.raises(TargetError, match=r"labels have shape \(2,\); .* so \(3,\) is needed"):
        hard_labels(torch.zeros(3, 4), torch.tensor([0, 1]))


def test_every_loss_says_how_many_positions_it_averages_over() -> None:
    assert LOSSES["hard_labels"].count(torch.tensor([1, -1, 0])) == 2
    assert LOSSES["soft_targets"].count(Targets(4, torch.zeros(3, 4))) == 3


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_can_be_called_as_the_table_says(name: str) -> None:
    loss = LOSSES[name]
    batch: dict[str, Any] = {
        "targets": Targets(4, torch.zeros(3, 4)),
        "labels": torch.tensor([0, 1, -1]),
        "pseudo_labels": PseudoLabels(torch.tensor([0, 1, -1]), torch.ones(3)),
        "features": torch.ones(3, 4),
    }
    reference, own = batch[loss.needs], torch.zeros(3, 4)
    if name == "attention_transfer":  # of maps alone
        reference, own = reference[:, :, None, None], own[:, :, None, None]
    whole = loss.function(own, reference)
    half = loss.function(own, reference, count=2 * loss.count(reference))
    assert half.item() == pytest.approx(whole.item() / 2)


def mixed() -> MixedLabels:
    first, second = torch.tensor([0, 1, -1, 3]), torch.tensor([2, -1, 0, 3])
    return MixedLabels(first, second, torch.tensor([0.25, 0.5, 0.5, 0.1]))


def test_mixed_labels_count_by_their_shares_and_only_where_both_are_known() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs = logits.log_softmax(1)
    wanted = -(0.25 * probs[0, 0] + 0.75 * probs[0, 2] + probs[3, 3]) / 2
    assert torch.allclose(hard_labels(logits, mixed()), wanted)
    assert int(LOSSES["hard_labels"].count(mixed())) == 2
    assert torch.autograd.gradcheck(lambda own: hard_labels(own, mixed()), logits.requires_grad_())


def test_mixed_labels_in_chunks_are_those_at_once() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    term = hard_labels_term(mixed())
    parts = [term.compare(logits[cut], cut) for cut in (slice(0, 3), slice(3, 4))]
    value = sum(float(each.value.sum()) for each in parts) * float(term.factor)
    assert value == pytest.approx(float(hard_labels(logits, mixed())))


def test_a_mixed_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(TargetError, match="1 labels are not classes of the student: 3 at"):
        hard_labels(torch.zeros(4, 3), mixed())


@pytest.mark.parametrize("classes", [4, 300])
def test_what_is_infinite_where_there_is_no_label_costs_nothing(classes: int) -> None:
    logits, labels = draw(2, classes), torch.tensor([-1, 1])
    logits[0, 0] = -math.inf
    answer = hard_labels_term(labels).compare(logits, slice(0, 2))
    assert answer.value[0] == 0
    assert answer.derivative()[0].tolist() == [0] * classes
