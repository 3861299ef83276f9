import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from pipeline.card import accepted
from pipeline.targets import (
    Targets,
    TargetSpec,
    decode,
    encode,
    fit_basis,
    low_rank_logits,
    uniforms,
)

CLASSES, POSITIONS = 40, 30


def draw_logits(positions: int, seed: int) -> Tensor:
    return 2 * torch.randn(positions, CLASSES, generator=torch.Generator().manual_seed(seed))


def slow_overlap(teacher: Tensor, student: Tensor) -> float:
    """Add up the smaller of each pair of probabilities, one by one."""
    total = 0.0
    for ours, theirs in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        p = [math.exp(x) for x in theirs]
        q = [math.exp(x) for x in ours]
        total += sum(min(a / sum(p), b / sum(q)) for a, b in zip(p, q, strict=False))
    return total


def keep(spec: TargetSpec, logits: Tensor, seed: int = 0) -> Targets:
    numbers = uniforms(seed, [("a", 0)], [len(logits)], spec.draws) if spec.draws else None
    return decode(spec, encode(spec, logits, numbers=numbers))


@pytest.fixture
def teacher() -> Tensor:
    return draw_logits(POSITIONS, 1)


@pytest.fixture
def student(teacher: Tensor) -> Tensor:
    return teacher + 0.7 * draw_logits(POSITIONS, 2)


def test_of_all_classes_it_is_the_overlap(teacher: Tensor, student: Tensor) -> None:
    least, most = accepted(student, Targets(CLASSES, teacher - teacher.amax(1, keepdim=True)))
    assert least == most == pytest.approx(slow_overlap(teacher, student), rel=1e-5)
    assert accepted(teacher, keep(TargetSpec("all", CLASSES, CLASSES), teacher))[0] == (
        pytest.approx(POSITIONS, rel=1e-3)
    )


@pytest.mark.parametrize("k", [1, 4, 39])
def test_a_bucket_says_between_what_it_lies(teacher: Tensor, student: Tensor, k: int) -> None:
    exact = slow_overlap(teacher, student)
    least, most = accepted(student, keep(TargetSpec("top_k", CLASSES, k), teacher))
    assert least - 0.01 <= exact <= most + 0.01
    assert most - least > 0.01 or k == 39


def test_a_bucket_counts_what_is_kept_and_two_masses(teacher: Tensor, student: Tensor) -> None:
    least, most = accepted(student, keep(TargetSpec("top_k", CLASSES, 4), teacher))
    p, q = teacher.softmax(1), student.softmax(1)
    top = p.topk(4, dim=1)
    mine = q.gather(1, top.indices)
    head = torch.minimum(top.values, mine).sum()
    tails = torch.minimum(1 - top.values.sum(1), 1 - mine.sum(1)).sum()
    assert least == pytest.approx(float(head), abs=0.02)
    assert most == pytest.approx(float(head + tails), abs=0.02)


def test_spare_places_of_a_varying_number_count_once(teacher: Tensor, student: Tensor) -> None:
    targets = keep(TargetSpec("top_p", CLASSES, 8, p=0.5), teacher)
    assert targets.count is not None
    assert targets.count.min() < targets.count.max()
    least, most = accepted(student, targets)
    assert least - 0.01 <= slow_overlap(teacher, student) <= most + 0.01


@pytest.mark.parametrize("kind", ["sampled", "hybrid"])
def test_draws_speak_for_the_tail_without_bias(kind: Literal["sampled", "hybrid"]) -> None:
    one = draw_logits(1, 3)
    teacher, student = one.expand(4000, -1), (one + 0.7 * draw_logits(1, 4)).expand(4000, -1)
    spec = TargetSpec(kind, CLASSES, 0 if kind == "sampled" else 3, draws=6)
    targets = keep(spec, teacher)
    each = torch.tensor([accepted(student[:1], targets[i : i + 1])[0] for i in range(400)])
    error = float(each.std()) / math.sqrt(4000)
    least, most = accepted(student, targets)
    assert least == most
    assert abs(least / 4000 - slow_overlap(one, student[:1])) < 4 * error + 1e-3


def test_the_shape_of_a_tail_is_taken_as_it_was_rebuilt(teacher: Tensor, student: Tensor) -> None:
    basis = fit_basis(lambda: iter([teacher]), rank=5, seed=0)
    spec = TargetSpec("top_k", CLASSES, 4, rank=5, bits=basis.bits)
    targets = decode(spec, encode(spec, teacher, basis=basis), basis)
    least, most = accepted(student, targets)
    rebuilt = low_rank_logits(targets, 1.0)
    assert least == most == pytest.approx(slow_overlap(rebuilt, student), rel=1e-4)
    assert abs(least - slow_overlap(teacher, student)) < 2.0


def test_classes_that_only_the_student_has_overlap_with_nothing(teacher: Tensor) -> None:
    wider = torch.cat([teacher, teacher[:, :5]], 1)
    told = Targets(CLASSES, teacher - teacher.amax(1, keepdim=True))
    assert accepted(wider, told)[0] == pytest.approx(float(wider.softmax(1)[:, :CLASSES].sum()))
