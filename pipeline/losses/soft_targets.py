"""The student's softened distribution against the teacher's, whole or cut to the kept classes.

Knows the targets and logits of one batch of positions. Does not know samples, caches or ranks: the
share of a batch in a larger one is given as `count`.
"""

import math
from collections.abc import Callable

from torch import Tensor

from pipeline.errors import TargetError
from pipeline.losses.average import at_least_float32, average
from pipeline.losses.divergence import BucketDivergence, DenseDivergence
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
    student = at_least_float32(student_logits) / temperature
    if soft.log_tail is None or targets.classes is None:
        loss = _dense(student, targets.classes, soft.log_probs)
    else:
        loss = TAILS[tail](student, targets.classes, soft.log_probs, soft.log_tail)
    return average(loss.sum(), count=len(targets) if count is None else count) * temperature**2


def _dense(student: Tensor, classes: Tensor | None, log_probs: Tensor) -> Tensor:
    kept = student if classes is None else student.gather(1, classes)  # (P, C), another order
    loss: Tensor = DenseDivergence.apply(kept, log_probs)  # type: ignore[no-untyped-call]
    return loss


def _bucket(student: Tensor, classes: Tensor, log_probs: Tensor, log_tail: Tensor) -> Tensor:
    loss: Tensor = BucketDivergence.apply(  # type: ignore[no-untyped-call]  # torch's own
        student, classes, log_probs, log_tail
    )
    return loss


def _uniform(student: Tensor, classes: Tensor, log_probs: Tensor, log_tail: Tensor) -> Tensor:
    student = student.log_softmax(1)
    kept = student.gather(1, classes)
    count = student.shape[1] - kept.shape[1]
    tail_mean = (student.sum(1) - kept.sum(1)) / count
    of_tail = log_tail.exp() * (log_tail - math.log(count) - tail_mean)
    return _divergence(log_probs, kept) + of_tail


def _renormalise(student: Tensor, classes: Tensor, log_probs: Tensor, log_tail: Tensor) -> Tensor:
    return _none(student, classes, log_probs.log_softmax(1), log_tail)


def _none(student: Tensor, classes: Tensor, log_probs: Tensor, log_tail: Tensor) -> Tensor:
    return _divergence(log_probs, student.log_softmax(1).gather(1, classes))


# Each of (student logits over temperature (P, C), classes (P, K), log-probs (P, K), log-tail (P,)).
TAILS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
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
