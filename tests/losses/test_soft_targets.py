"""Soft targets against loops in plain floats, and against what must hold whatever the numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import kl_div

from pipeline.errors import TargetError
from pipeline.losses import soft_targets
from pipeline.targets import DEFAULT_NODES, Targets, TargetSpec, decode, encode

MODES = ["bucket", "renormalise", "uniform", "none"]
TEMPERATURES = [1.0, 2.0, 4.0]  # nodes of the tail, so nothing here is interpolated


def draw(positions: int, class_count: int, seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(positions, class_count, generator=generator, dtype=torch.float64)
    return logits * scale


def exact_targets(logits: Tensor, k: int) -> Targets:
    """Cut to top-k in the logits' own precision, without rounding to what a cache holds."""
    logits = logits - logits.amax(1, keepdim=True)
    kept, classes = logits.topk(k, dim=1)
    class_count = logits.shape[1]
    if k == class_count:
        return Targets(class_count, kept, classes)
    left_out = logits.scatter(1, classes, -math.inf)
    values = [(left_out * node).logsumexp(1) for node in DEFAULT_NODES]
    finite = logits.scatter(1, classes, 0.0)
    slopes = [finite.sum(1) / (class_count - k), (left_out.softmax(1) * finite).sum(1)]
    return Targets(class_count, kept, classes, torch.stack(values + slopes, 1), DEFAULT_NODES)


def dense(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    q, p = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return kl_div(q, p, log_target=True, reduction="batchmean") * temperature**2


def gradient(student: Tensor, targets: Targets, temperature: float, tail: str) -> Tensor:
    student = student.clone().requires_grad_()
    loss = soft_targets(student, targets, temperature=temperature, tail=tail)
    (slope,) = torch.autograd.grad(loss, student)
    return slope


def slow_softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp((x - max(row)) / temperature) for x in row]
    return [power / sum(powers) for power in powers]


def slow_loss(student: Tensor, teacher: Tensor, k: int, temperature: float, tail: str) -> float:
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = slow_softmax(t, temperature), slow_softmax(s, temperature)
        kept = sorted(range(len(t)), key=lambda c: -t[c])[:k]
        left_out = [c for c in range(len(t)) if c not in kept]
        mass = sum(p[c] for c in left_out)
        pairs = [(p[c], q[c]) for c in kept]
        if tail == "renormalise":
            pairs = [(p[c] / (1 - mass), q[c]) for c in kept]
        if tail == "bucket":
            pairs.append((mass, sum(q[c] for c in left_out)))
        if tail == "uniform":
            pairs += [(mass / len(left_out), q[c]) for c in left_out]
        total += sum(a * math.log(a / b) for a, b in pairs)
    return total / len(student) * temperature**2


@pytest.mark.parametrize("tail", MODES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 3, 6])
def test_each_mode_is_its_formula(tail: str, temperature: float, k: int) -> None:
    student, teacher = draw(5, 7, 1), draw(5, 7, 2)
    loss = soft_targets(student, exact_targets(teacher, k), temperature=temperature, tail=tail)
    slow = slow_loss(student, teacher, k, temperature, tail)
    assert loss.item() == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize("tail", MODES)
@pytest.mark.parametrize("temperature", [0.5, *TEMPERATURES, 7.3])
def test_keeping_every_class_is_the_dense_loss(tail: str, temperature: float) -> None:
    student, teacher = draw(6, 8, 3), draw(6, 8, 4)
    expected = dense(student, teacher, temperature)
    for targets in (exact_targets(teacher, 8), Targets(8, teacher)):
        loss = soft_targets(student, targets, temperature=temperature, tail=tail)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@settings(max_examples=100)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 7),
    st.sampled_from(TEMPERATURES),
    st.floats(0.1, 10),
)
def test_bucket_is_never_above_dense_and_never_below_0(
    seed: int, k: int, temperature: float, scale: float
) -> None:
    student, teacher = draw(4, 8, seed, scale), draw(4, 8, seed + 1, scale)
    loss = soft_targets(student, exact_targets(teacher, k), temperature=temperature)
    assert -1e-9 <= loss <= dense(student, teacher, temperature) + 1e-9


@pytest.mark.parametrize("tail", ["bucket", "none"])
@pytest.mark.parametrize("k", [1, 4, 9, 10])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_student_equal_to_teacher_scores_0(tail: str, k: int, temperature: float) -> None:
    # Multiples of 1/64 survive float16, so that a cache keeps the very same teacher.
    teacher = (draw(50, 10, 5) * 64).round().float() / 64
    spec = TargetSpec("top_k", 10, k)
    targets = decode(spec, encode(spec, teacher))
    loss = soft_targets(teacher, targets, temperature=temperature, tail=tail)
    assert abs(loss.item()) <= 1e-6 * temperature**2


@pytest.mark.parametrize("k", [1, 4, 10])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_is_0_where_student_equals_teacher(k: int, temperature: float) -> None:
    teacher = draw(6, 10, 6)
    slope = gradient(teacher, exact_targets(teacher, k), temperature, "bucket")
    assert slope.abs().max() <= 1e-12


@pytest.mark.parametrize("tail", MODES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [2, 5])
def test_gradients_are_the_derivatives(tail: str, temperature: float, k: int) -> None:
    targets = exact_targets(draw(3, 5, 7), k)
    student = draw(3, 5, 8).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: soft_targets(s, targets, temperature=temperature, tail=tail), (student,)
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_dense_gradient_is_the_difference_of_distributions(temperature: float) -> None:
    student, teacher = draw(4, 6, 9), draw(4, 6, 10)
    p, q = ((logits / temperature).softmax(1) for logits in (teacher, student))
    slope = gradient(student, Targets(6, teacher), temperature, "bucket")
    assert torch.allclose(slope, temperature / 4 * (q - p))


def test_unnormalised_gradient_weighs_the_student_by_the_kept_mass() -> None:
    student, teacher = draw(1, 6, 11), draw(1, 6, 12)
    targets = exact_targets(teacher, 3)
    assert targets.classes is not None
    p, q = teacher.softmax(1), student.softmax(1)
    kept = torch.zeros_like(p).scatter(1, targets.classes, p.gather(1, targets.classes))
    expected = kept.sum(1, keepdim=True) * q - kept
    assert torch.allclose(gradient(student, targets, 1.0, "none"), expected)


@pytest.mark.parametrize("tail", ["none", "renormalise"])
def test_without_a_tail_the_best_student_forgets_what_was_left_out(tail: str) -> None:
    teacher = draw(4, 6, 13)
    targets = exact_targets(teacher, 3)
    assert targets.classes is not None
    kept = teacher.gather(1, targets.classes)
    best = torch.full_like(teacher, -80.0).scatter(1, targets.classes, kept)
    assert gradient(best, targets, 1.0, tail).abs().max() <= 1e-12
    assert gradient(teacher, targets, 1.0, tail).abs().max() > 1e-3


def test_high_temperature_tends_to_matching_logits() -> None:
    student, teacher = draw(4, 10, 14), draw(4, 10, 15)
    centred = [logits - logits.mean(1, keepdim=True) for logits in (student, teacher)]
    limit = (centred[0] - centred[1]) / (4 * 10)

    def distance(temperature: float) -> float:
        slope = gradient(student, Targets(10, teacher), temperature, "bucket")
        return float((slope - limit).norm() / limit.norm())

    # The distance falls as 1 / T.
    assert distance(1000) == pytest.approx(distance(100) / 10, rel=0.1)


@pytest.mark.parametrize("tail", MODES)
def test_unequal_micro_batches_add_up_to_the_whole(tail: str) -> None:
    student, targets = draw(11, 6, 16), exact_targets(draw(11, 6, 17), 2)
    whole = soft_targets(student, targets, temperature=2.0, tail=tail)
    parts = [slice(0, 1), slice(1, 8), slice(8, 8), slice(8, 11)]
    counts: list[Tensor | float] = [11, torch.tensor(11), 11.0, torch.tensor(11.0)]
    shares = [
        soft_targets(student[part], targets[part], temperature=2.0, tail=tail, count=count)
        for part, count in zip(parts, counts, strict=True)
    ]
    assert torch.stack(shares).sum().item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("tail", MODES)
@pytest.mark.parametrize("count", [None, 0, torch.tensor(0)], ids=str)
def test_no_positions_cost_nothing(tail: str, count: Tensor | None) -> None:
    student = torch.zeros(0, 6, requires_grad=True)
    loss = soft_targets(student, exact_targets(torch.zeros(0, 6), 2), tail=tail, count=count)
    (slope,) = torch.autograd.grad(loss, student)
    assert loss.item() == 0.0
    assert slope.shape == student.shape


@pytest.mark.parametrize("tail", MODES)
def test_a_student_sure_of_itself_gets_finite_gradients(tail: str) -> None:
    student = torch.tensor([[200.0, 0.0, -200.0, -300.0], [-300.0, -200.0, 0.0, 200.0]])
    teacher = torch.tensor([[100.0, 0.0, -100.0, -200.0]]).expand(2, 4)
    slope = gradient(student, exact_targets(teacher, 2), 1.0, tail)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize("tail", MODES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("wider", [0, 3])
@pytest.mark.parametrize("k", [4, 10])
def test_the_students_logits_are_left_alone(
    tail: str, temperature: float, wider: int, k: int
) -> None:
    student = draw(5, 10 + wider, 1).requires_grad_()
    before = student.detach().clone()
    loss = soft_targets(
        student, exact_targets(draw(5, 10, 0), k), temperature=temperature, tail=tail
    )
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own
    assert torch.equal(student.detach(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_students_are_widened_first(dtype: torch.dtype) -> None:
    student, targets = draw(5, 40, 18).to(dtype), exact_targets(draw(5, 40, 19).float(), 4)
    loss = soft_targets(student, targets, temperature=2.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, soft_targets(student.float(), targets, temperature=2.0))


def test_another_number_of_classes_is_refused() -> None:
    expected = (
        "soft_targets: the student's logits have shape (3, 7); these targets are 3 positions of 8 "
        "classes. Give the student the teacher's classes, and join targets by position."
    )
    with pytest.raises(TargetError) as caught:
        soft_targets(torch.zeros(3, 7), exact_targets(torch.zeros(3, 8), 2))
    assert str(caught.value) == expected


def test_an_unknown_tail_is_refused() -> None:
    with pytest.raises(
        TargetError, match=r"'ghost' is unknown; use one of bucket, low_rank, none, renorm"
    ):
        soft_targets(torch.zeros(1, 8), Targets(8, torch.zeros(1, 8)), tail="ghost")


@pytest.mark.parametrize("tail", MODES)
def test_a_temperature_below_1_is_refused_where_classes_were_left_out(tail: str) -> None:
    targets = exact_targets(torch.zeros(1, 8), 2)
    with pytest.raises(TargetError, match=r"temperature 0\.5 cannot be served"):
        soft_targets(torch.zeros(1, 8), targets, temperature=0.5, tail=tail)
