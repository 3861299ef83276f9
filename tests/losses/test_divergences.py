"""Divergences, draws, padded vocabularies and weights of positions: loops and theorems."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from pipeline.errors import TargetError
from pipeline.losses import soft_targets
from pipeline.targets import Targets, TargetSpec, decode, encode, fit_basis, uniforms

CLASSES = 12
DIVERGENCES = ["forward_kl", "reverse_kl", "jensen_shannon"]


def draw(positions: int, seed: int, classes: int = CLASSES, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(positions, classes, generator=generator, dtype=torch.float64) * scale


def cut(logits: Tensor, **options: Any) -> Targets:
    spec = TargetSpec(class_count=logits.shape[1], **options)
    numbers = uniforms(0, [("a", 0)], [len(logits)], spec.draws) if spec.draws else None
    basis = fit_basis(lambda: iter([draw(60, 99)]), spec.rank, 0) if spec.rank else None
    return decode(spec, encode(spec, logits, basis, numbers), basis)


def top(logits: Tensor, k: int) -> Targets:
    return cut(logits, kind="top_k", k=k)


def slow(p: list[float], q: list[float], divergence: str, beta: float) -> float:
    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    if divergence == "forward_kl":
        return kl(p, q)
    if divergence == "reverse_kl":
        return kl(q, p)
    middle = [beta * x + (1 - beta) * y for x, y in zip(p, q, strict=True)]
    return beta * kl(p, middle) + (1 - beta) * kl(q, middle)


def lump(probs: Tensor, classes: Tensor) -> list[list[float]]:
    kept = probs.gather(1, classes)
    return torch.cat([kept, 1 - kept.sum(1, keepdim=True)], 1).tolist()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_each_divergence_is_its_formula_over_kept_classes_and_bucket(
    divergence: str, beta: float, temperature: float
) -> None:
    # Multiples of 1/64 survive float16; T is a node of the tail.
    student, teacher = draw(5, 1), (draw(5, 2) * 64).round() / 64
    targets = top(teacher, 4)
    assert targets.classes is not None
    p, q = ((each / temperature).softmax(1) for each in (teacher, student))
    pairs = zip(lump(p, targets.classes), lump(q, targets.classes), strict=True)
    expected = sum(slow(a, b, divergence, beta) for a, b in pairs) / 5 * temperature**2
    loss = soft_targets(student, targets, temperature=temperature, divergence=divergence, beta=beta)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("k", [1, 3, 8])
def test_a_bucket_is_never_above_all_classes(divergence: str, k: int) -> None:
    for seed in range(20):
        student, teacher = draw(4, seed), draw(4, seed + 100).float()
        whole = soft_targets(student, Targets(CLASSES, teacher), divergence=divergence)
        assert soft_targets(student, top(teacher, k), divergence=divergence) <= whole + 1e-5


TAILS = [
    ("bucket", {"kind": "top_k", "k": 4}),
    ("bucket", {"kind": "top_p", "k": 6, "p": 0.8}),
    ("uniform", {"kind": "top_p", "k": 6, "p": 0.8}),
    ("renormalise", {"kind": "top_p", "k": 6, "p": 0.8}),
    ("low_rank", {"kind": "top_k", "k": 4, "rank": 3}),
    ("low_rank", {"kind": "top_p", "k": 6, "p": 0.8, "rank": 3}),
    ("sampled", {"kind": "sampled", "k": 0, "draws": 5}),
    ("sampled", {"kind": "hybrid", "k": 3, "draws": 5}),
    ("bucket", {"kind": "hybrid", "k": 3, "draws": 5}),
    ("bucket", {"kind": "all", "k": CLASSES}),
]


@pytest.mark.parametrize(("tail", "options"), TAILS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("width", [CLASSES, CLASSES + 3], ids=["same", "padded"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradients_are_the_derivatives(
    tail: str, options: dict[str, Any], divergence: str, width: int, temperature: float
) -> None:
    if divergence != "forward_kl" and tail in ("sampled", "renormalise"):
        return  # refused, which has a test of its own
    targets, student = cut(draw(3, 7), **options), draw(3, 8, width).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: soft_targets(
            s, targets, temperature=temperature, tail=tail, divergence=divergence
        ),
        (student,),
    )


@pytest.mark.parametrize(("tail", "options"), TAILS)
def test_a_padded_vocabulary_is_a_teacher_that_never_says_the_rest(
    tail: str, options: dict[str, Any]
) -> None:
    student, targets = draw(4, 9, CLASSES + 3), cut(draw(4, 10), **options)
    inside = student[:, :CLASSES]
    mass = student.softmax(1)[:, :CLASSES].sum(1)
    expected = soft_targets(inside, targets, tail=tail) - mass.log().mean()
    assert soft_targets(student, targets, tail=tail).item() == pytest.approx(expected.item())
    pushed = student.clone().requires_grad_()
    (slope,) = torch.autograd.grad(soft_targets(pushed, targets, tail=tail), pushed)
    assert bool((slope[:, CLASSES:] > 0).all())


def test_padded_classes_make_dense_targets_the_divergence_over_all_of_the_student() -> None:
    student, teacher = draw(4, 11, CLASSES + 2), draw(4, 12)
    padded = torch.cat([teacher, torch.full((4, 2), -1e4, dtype=torch.float64)], 1)
    expected = kl_div(
        student.log_softmax(1), padded.log_softmax(1), log_target=True, reduction="batchmean"
    )
    assert soft_targets(student, Targets(CLASSES, teacher)).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("kind", ["sampled", "hybrid"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_give_the_loss_and_gradient_of_all_classes_on_average(
    kind: str, temperature: float
) -> None:
    row, student = draw(1, 13), draw(1, 14).requires_grad_()
    options = {"kind": kind, "k": 2 if kind == "hybrid" else 0, "draws": 8}
    targets = cut(row.expand(4000, -1), **options)
    loss = soft_targets(student.expand(4000, -1), targets, temperature=temperature)
    (slope,) = torch.autograd.grad(loss, student)
    whole = soft_targets(student, Targets(CLASSES, row), temperature=temperature)
    (expected,) = torch.autograd.grad(whole, student)
    assert loss.item() == pytest.approx(whole.item(), rel=0.05)
    torch.testing.assert_close(slope, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", ["sampled", "hybrid"])
def test_draws_cost_a_student_that_equals_the_teacher_nothing(kind: str) -> None:
    teacher = (draw(50, 15) * 64).round() / 64
    options = {"kind": kind, "k": 2 if kind == "hybrid" else 0, "draws": 8}
    loss = soft_targets(teacher, cut(teacher, **options))
    assert abs(loss.item()) < 1e-3  # the tail's mass is rounded to 0.0006


@pytest.mark.parametrize("weigh_by", ["confidence", "entropy"])
def test_positions_count_by_what_the_teacher_said(weigh_by: str) -> None:
    student, teacher = draw(6, 16), draw(6, 17)
    p = teacher.softmax(1)
    weights = {
        "confidence": p.amax(1),
        "entropy": -(p * p.log()).sum(1) / math.log(CLASSES),
    }[weigh_by]
    each = torch.stack(
        [
            soft_targets(student[[i]], Targets(CLASSES, teacher[[i]]), temperature=2)
            for i in range(6)
        ]
    )
    targets = replace(cut(teacher, kind="all", k=CLASSES), logits=teacher)
    loss = soft_targets(student, targets, temperature=2, weigh_by=weigh_by)
    assert loss.item() == pytest.approx(float((each * weights).sum() / weights.sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "asked", "text"),
    [
        ({"kind": "sampled", "k": 0, "draws": 2}, {"tail": "bucket"}, "holds draws alone"),
        (
            {"kind": "top_k", "k": 2},
            {"tail": "sampled"},
            "needs a cache of draws; this one has none",
        ),
        ({"kind": "top_k", "k": 2}, {"divergence": "kl"}, "divergence 'kl' is unknown; use one of"),
        ({"kind": "top_k", "k": 2}, {"beta": 1.0}, "beta 1 is out of range; it must be between 0"),
        ({"kind": "top_k", "k": 2}, {"weigh_by": "margin"}, "weigh_by 'margin' is unknown; use"),
        (
            {"kind": "hybrid", "k": 2, "draws": 2},
            {"divergence": "reverse_kl"},
            "'reverse_kl' is not defined with tail 'sampled': the logarithm of an estimate is",
        ),
        (
            {"kind": "top_k", "k": 2},
            {"divergence": "jensen_shannon", "tail": "none"},
            "what the student says of left-out classes has nothing to be compared with",
        ),
    ],
)
def test_what_is_not_defined_is_refused(
    options: dict[str, Any], asked: dict[str, Any], text: str
) -> None:
    with pytest.raises(TargetError, match=text):
        soft_targets(draw(2, 1), cut(draw(2, 2), **options), **asked)


def test_targets_without_statistics_cannot_weigh_positions() -> None:
    targets = replace(top(draw(2, 2), 3), statistics={})
    with pytest.raises(TargetError, match="needs the teacher's entropy at each position"):
        soft_targets(draw(2, 1), targets, weigh_by="entropy")
