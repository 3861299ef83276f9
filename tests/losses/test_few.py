"""Of few classes the losses in numpy are those in torch, or are left to torch."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.losses import joined_losses
from pipeline.losses.few import targets as few
from pipeline.losses.few.together import few_losses
from pipeline.losses.hard_labels import hard_labels_term
from pipeline.losses.soft_targets import soft_targets_term
from pipeline.losses.term import Term
from pipeline.targets import Targets, TargetSpec, decode, encode

WINDOW, POSITIONS = 50, 13
# Of a spec: classes, how many are kept.
CUTS = [(10, 4), (10, 10), (7, 6), (2, 1), (255, 20)]
Weighted = list[tuple[float, Term]]


def draw(*shape: int, seed: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_targets(classes: int, kept: int, **options: Any) -> Targets:
    kind = {"kind": "all" if kept == classes else "top_k", "k": kept} | options
    spec = TargetSpec(class_count=classes, **kind)
    return decode(spec, encode(spec, draw(WINDOW, classes, seed=0)))


def make_terms(targets: Targets, labels: Tensor | None = None, **settings: Any) -> Weighted:
    """Soft and hard losses of some positions of a window, which repeat."""
    at = (7 * torch.arange(POSITIONS)) % (WINDOW - 1)
    soft = soft_targets_term(targets, 1.0, **settings).at(at, 11.0)
    labels = at % targets.class_count if labels is None else labels
    return [(0.9, soft), (0.1, hard_labels_term(labels, 9.0))]


def students_logits(classes: int) -> Tensor:
    return draw(POSITIONS, classes, seed=1)


def by_torch(
    monkeypatch: pytest.MonkeyPatch, logits: Tensor, terms: Weighted
) -> tuple[list[float], Tensor]:
    """Give the losses of doubles, by the rules of torch."""
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.losses.fused.few_losses", lambda *given: None)
        sums, [(_, gradient)] = joined_losses(logits.double(), terms)
    return list(map(float, sums)), gradient.float()


@pytest.mark.parametrize(("classes", "kept"), CUTS)
@pytest.mark.parametrize("temperature", [1.0, 1.7, 4.0])
@pytest.mark.parametrize("chosen", [slice(0, 2), slice(0, 1), slice(1, 2)], ids=["2", "1", "hard"])
def test_values_and_gradient_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch, classes: int, kept: int, temperature: float, chosen: slice
) -> None:
    logits = students_logits(classes)
    terms = make_terms(make_targets(classes, kept), temperature=temperature)[chosen]
    expected, derivative = by_torch(monkeypatch, logits, terms)
    found = few_losses(logits, terms)
    assert found is not None
    assert found[0] == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(found[1], derivative, rtol=1e-5, atol=1e-7)


def test_all_classes_may_be_compared_below_a_temperature_of_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, terms = students_logits(10), make_terms(make_targets(10, 10), temperature=0.1)
    expected, derivative = by_torch(monkeypatch, logits, terms)
    found = few_losses(logits, terms)
    assert found is not None
    assert found[0] == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(found[1], derivative, rtol=1e-4, atol=1e-6)


def test_joined_losses_take_them_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, terms = students_logits(10).requires_grad_(), make_terms(make_targets(10, 4))
    sums, [(by, gradient)] = joined_losses(logits, terms)
    assert by is logits
    assert all(isinstance(each, float) for each in sums)
    assert not gradient.requires_grad
    expected, derivative = by_torch(monkeypatch, logits, terms)
    assert sums == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, derivative, rtol=1e-5, atol=1e-7)


def test_no_positions_cost_nothing() -> None:
    nobody = torch.arange(0)
    soft = soft_targets_term(make_targets(10, 4), 1.0).at(nobody, 1.0)
    found = few_losses(torch.zeros(0, 10), [(1.0, soft), (1.0, hard_labels_term(nobody, 1.0))])
    assert found is not None
    assert found[0] == [0.0, 0.0]
    assert found[1].shape == (0, 10)


def other_terms() -> dict[str, Weighted]:
    """What these rules are not for, by why."""
    top, every = make_targets(10, 4), make_targets(10, 10)
    unlabelled = torch.full((POSITIONS,), -1)
    return {
        "weighed": make_terms(top, weigh_by="confidence"),
        "another divergence": make_terms(every, divergence="reverse_kl"),
        "another tail": make_terms(top, tail="uniform"),
        "their number varies": make_terms(make_targets(10, 9, kind="top_p", p=0.6)),
        "unlabelled": make_terms(top, unlabelled),
        "not of a window": [(1.0, soft_targets_term(top[:POSITIONS]))],
        "one alone": [*make_terms(top)[:1], (1.0, soft_targets_term(top[:POSITIONS]))],
        "other classes": make_terms(make_targets(9, 4), torch.zeros(POSITIONS).long()),
    }


@pytest.mark.parametrize("why", other_terms())
def test_what_they_are_not_for_is_left_to_torch(why: str) -> None:
    logits, terms = students_logits(10), other_terms()[why]
    assert few_losses(logits, terms) is None
    assert all(isinstance(each, Tensor) for each in joined_losses(logits, terms)[0])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e4, -1e4])
@pytest.mark.filterwarnings("error")
def test_logits_that_are_far_apart_or_not_finite_are_left_to_torch(value: float) -> None:
    logits, terms = students_logits(10), make_terms(make_targets(10, 4), temperature=2.0)
    logits[3, 2] = value
    assert few_losses(logits, terms) is None
    joined_losses(logits, terms)


@pytest.mark.filterwarnings("error")
def test_what_is_nearly_too_far_apart_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail is all but nothing: of the classes that are left out each has less than 1e-33."""
    targets = make_targets(10, 4)
    assert targets.classes is not None
    at = (7 * torch.arange(POSITIONS)) % (WINDOW - 1)
    logits = torch.full((POSITIONS, 10), -77.0).scatter_(1, targets.classes[at], 0.0)
    terms = make_terms(targets)
    expected, derivative = by_torch(monkeypatch, logits, terms)
    found = few_losses(logits, terms)
    assert found is not None
    assert found[0] == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(found[1], derivative, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("change", [torch.Tensor.double, torch.Tensor.half, torch.Tensor.bfloat16])
def test_other_precisions_are_left_to_torch(change: Any) -> None:
    assert few_losses(change(students_logits(10)), make_terms(make_targets(10, 4))) is None


def test_a_table_that_is_too_large_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = make_targets(10, 4)
    monkeypatch.setattr(few, "TABLE_BYTES", 4 * 32 * WINDOW)
    assert few_losses(students_logits(10), make_terms(targets)) is not None
    monkeypatch.setattr(few, "TABLE_BYTES", 4 * 32 * WINDOW - 1)
    assert few_losses(students_logits(10), make_terms(targets)) is None


def test_a_label_that_is_no_class_is_refused_by_its_position() -> None:
    labels = torch.arange(POSITIONS) % 10
    labels[5] = 10
    with pytest.raises(TargetError, match="10 at position 5; allowed are 0 to 9"):
        few_losses(students_logits(10), make_terms(make_targets(10, 4), labels))


def test_a_teacher_of_other_classes_is_refused() -> None:
    terms = make_terms(make_targets(12, 4))[:1]
    with pytest.raises(TargetError, match="positions of 12 classes"):
        joined_losses(students_logits(10), terms)


def test_targets_on_no_cpu_are_left_to_torch() -> None:
    targets = make_targets(10, 10)
    elsewhere = replace(targets, logits=targets.logits.to("meta"))
    assert few.few_targets(targets, 1.0, "bucket") is not None
    assert few.few_targets(elsewhere, 1.0, "bucket") is None
