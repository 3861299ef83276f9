"""The student's softened distribution against the teacher's, whole or cut to the kept classes.

Knows the targets and logits of one batch of positions. Does not know samples, caches or ranks: the
share of a batch in a larger one is given as `count`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.losses.average import at_least_float32, average
from pipeline.targets import Targets, soften


def soft_targets(
    student_logits: Tensor,
    targets: Targets,
    *,
    temperature: float = 1.0,
    tail: str = "bucket",
    count: Tensor | float | None = None,
) -> Tensor:
    """Pull the student's softened distribution towards the teacher's.

    The Kullback-Leibler divergence of the student from the teacher, summed over classes, averaged
    over positions (over `count`, if given) and scaled by temperature squared, so that gradients
    keep their size as the temperature changes. `tail` says what stands for the left-out classes:
    "bucket" one class with their exact mass, "uniform" that mass spread evenly, "renormalise"
    nothing, the kept classes sum to 1, "none" nothing, the kept classes keep their own mass. Where
    every class was kept, all four are the same.

    Shapes: student_logits (P, C); targets of P positions; returns ().
    Units:  nats, times temperature squared.
    Raises: TargetError if classes, positions, temperature or tail do not fit.
    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.
    """
    _check(student_logits, targets, tail)
    soft = soften(targets, temperature)
    student = (at_least_float32(student_logits) / temperature).log_softmax(1)  # (P, C)
    kept = student if targets.classes is None else student.gather(1, targets.classes)  # (P, K)
    if soft.log_tail is None or targets.classes is None:
        loss = _divergence(soft.log_probs, kept)
    else:
        left_out = _LeftOut(soft.log_tail, student, targets.classes)
        loss = TAILS[tail](soft.log_probs, kept, left_out)
    return average(loss.sum(), count=len(targets) if count is None else count) * temperature**2


@dataclass(frozen=True)
class _LeftOut:
    """What a tail is made of; the student's are log-probs over all classes.

    Shapes: log_mass (P,), student (P, C), classes (P, K).
    """

    log_mass: Tensor
    student: Tensor
    classes: Tensor


def _bucket(log_probs: Tensor, kept: Tensor, left_out: _LeftOut) -> Tensor:
    # 1 minus the kept mass would lose a small tail to rounding, in value and in gradient.
    tail = left_out.student.scatter(1, left_out.classes, -math.inf).logsumexp(1, keepdim=True)
    teacher = torch.cat([log_probs, left_out.log_mass[:, None]], 1)  # (P, K + 1)
    return _divergence(teacher, torch.cat([kept, tail], 1))


def _uniform(log_probs: Tensor, kept: Tensor, left_out: _LeftOut) -> Tensor:
    count = left_out.student.shape[1] - kept.shape[1]
    tail_mean = (left_out.student.sum(1) - kept.sum(1)) / count
    of_tail = left_out.log_mass.exp() * (left_out.log_mass - math.log(count) - tail_mean)
    return _divergence(log_probs, kept) + of_tail


def _renormalise(log_probs: Tensor, kept: Tensor, left_out: _LeftOut) -> Tensor:
    return _none(log_probs.log_softmax(1), kept, left_out)


def _none(log_probs: Tensor, kept: Tensor, left_out: _LeftOut) -> Tensor:
    return _divergence(log_probs, kept)


TAILS: dict[str, Callable[[Tensor, Tensor, _LeftOut], Tensor]] = {
    "bucket": _bucket,
    "uniform": _uniform,
    "renormalise": _renormalise,
    "none": _none,
}


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Sum p (log p - log q) over kept classes. Shapes: both (P, K), log-probs; returns (P,)."""
    return (teacher.exp() * (teacher - student)).sum(1)


def _check(student_logits: Tensor, targets: Targets, tail: str) -> None:
    if tail not in TAILS:
        raise TargetError(
            f"soft_targets: tail {tail!r} is unknown; use one of {', '.join(sorted(TAILS))}."
        )
    expected = (len(targets), targets.class_count)
    if tuple(student_logits.shape) != expected:
        raise TargetError(
            f"soft_targets: the student's logits have shape {tuple(student_logits.shape)}; these "
            f"targets are {expected[0]} positions of {expected[1]} classes. Give the student "
            "the teacher's classes, and join targets by position."
        )
