"""The student's softened distribution against the teacher's, whole or cut to the kept classes.

Knows the targets and logits of one batch of positions. Does not know samples, caches or ranks: the
share of a batch in a larger one is given as `count`.
"""

import math
from collections.abc import Callable

from torch import Tensor

from pipeline.errors import TargetError
from pipeline.losses.average import at_least_float32, average
from pipeline.losses.divergence import (
    Divergence,
    Rule,
    diverge_bucket,
    diverge_dense,
    diverge_low_rank,
)
from pipeline.targets import Soft, Targets, check_temperature, soften


def soft_targets(
    student_logits: Tensor,
    targets: Targets,
    *,
    temperature: float = 1.0,
    tail: str | None = None,
    count: Tensor | float | None = None,
) -> Tensor:
    """Pull the student's softened distribution towards the teacher's.

    The Kullback-Leibler divergence of the student from the teacher, summed over classes, averaged
    over positions (over `count`, if given) and scaled by temperature squared, so that gradients
    keep their size as the temperature changes. `tail` says what stands for the left-out classes:
    "low_rank" their shape, scaled to their exact mass, "bucket" one class with that mass, "uniform"
    that mass spread evenly, "renormalise" nothing, the kept classes sum to 1, "none" nothing, the
    kept classes keep their own mass. Where every class was kept, all are the same. Without `tail`
    it is "low_rank" if the shape was kept, and "bucket" otherwise.

    Shapes: student_logits (P, C); targets of P positions; returns ().
    Units:  nats, times temperature squared.
    Raises: TargetError if classes, positions, temperature or tail do not fit.
    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.
    """
    tail = tail or ("bucket" if targets.codes is None else "low_rank")
    _check(student_logits, targets, tail)
    check_temperature(temperature, has_tail=targets.tail is not None)
    total = TAILS["bucket" if targets.tail is None else tail](student_logits, targets, temperature)
    # Divided once, for an operation and its backward pass are a noticeable share of a small step.
    return average(total, (len(targets) if count is None else count) / temperature**2)


def _by(rule: Rule, logits: Tensor, targets: Targets, temperature: float) -> Tensor:
    total: Tensor = Divergence.apply(  # type: ignore[no-untyped-call]  # torch's own
        logits, rule, targets, temperature
    )
    return total


def _bucket(logits: Tensor, targets: Targets, temperature: float) -> Tensor:
    rule = diverge_dense if targets.tail is None else diverge_bucket
    return _by(rule, logits, targets, temperature)


def _low_rank(logits: Tensor, targets: Targets, temperature: float) -> Tensor:
    if targets.codes is None:
        raise TargetError(
            "soft_targets: tail 'low_rank' needs a cache that kept the tail's shape; this one kept "
            "its mass. Use tail = 'bucket', or cache with targets.tail = { kind = 'low_rank' }."
        )
    return _by(diverge_low_rank, logits, targets, temperature)


def _uniform(logits: Tensor, targets: Targets, temperature: float) -> Tensor:
    soft, student, kept = _soften_both(logits, targets, temperature)
    assert soft.log_tail is not None
    count = student.shape[1] - kept.shape[1]
    tail_mean = (student.sum(1) - kept.sum(1)) / count
    of_tail = soft.log_tail.exp() * (soft.log_tail - math.log(count) - tail_mean)
    return _divergence(soft.log_probs, kept) + of_tail.sum()


def _renormalise(logits: Tensor, targets: Targets, temperature: float) -> Tensor:
    soft, _, kept = _soften_both(logits, targets, temperature)
    return _divergence(soft.log_probs.log_softmax(1), kept)


def _none(logits: Tensor, targets: Targets, temperature: float) -> Tensor:
    soft, _, kept = _soften_both(logits, targets, temperature)
    return _divergence(soft.log_probs, kept)


# Each sums over the positions of (student logits (P, C), targets, temperature).
TAILS: dict[str, Callable[[Tensor, Targets, float], Tensor]] = {
    "bucket": _bucket,
    "low_rank": _low_rank,
    "uniform": _uniform,
    "renormalise": _renormalise,
    "none": _none,
}


def _soften_both(
    logits: Tensor, targets: Targets, temperature: float
) -> tuple[Soft, Tensor, Tensor]:
    """Shapes: returns the teacher's, the student's log-probs (P, C), and those kept (P, K)."""
    assert targets.classes is not None
    student = (at_least_float32(logits) / temperature).log_softmax(1)
    return soften(targets, temperature), student, student.gather(1, targets.classes)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Sum p (log p - log q) over kept classes and positions. Shapes: both (P, K), log-probs."""
    return (teacher.exp() * (teacher - student)).sum()


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
