"""How far two distributions are apart, with the gradient written out.

Each takes two distributions and gives a number a position with its derivative by the logits of
the student. A distribution is made with one exp a class, which is what most of a loss costs. Knows
neither targets nor temperatures.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.losses.term import Places, cut


class Probs(NamedTuple):
    """A distribution. Shapes: (P, C) each. Units: log_probs in nats."""

    probs: Tensor
    log_probs: Tensor

    def at(self, places: Places) -> "Probs":
        return Probs(cut(self.probs, places), cut(self.log_probs, places))


# Of teacher and student (P, N), the latter of which may be overwritten: the divergence (P,), and
# its derivative by the student's logits (P, N).
Divergence = Callable[[Probs, Probs], tuple[Tensor, Tensor]]


def forward_kl(teacher: Probs, student: Probs) -> tuple[Tensor, Tensor]:
    """KL(teacher || student); the gradient is q - p.

    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, equation 2.
    """
    # As precise as the more precise of the two.
    value = (teacher.log_probs - student.log_probs).mul_(teacher.probs).sum(1)
    return value, student.probs.sub_(teacher.probs)


def reverse_kl(teacher: Probs, student: Probs) -> tuple[Tensor, Tensor]:
    """KL(student || teacher): a student is punished for what the teacher would not say.

    Source: Gu et al. 2023, arXiv:2306.08543, section 2.
    """
    return _through_probs(student, student.log_probs - teacher.log_probs)


def jensen_shannon(teacher: Probs, student: Probs, *, beta: float) -> tuple[Tensor, Tensor]:
    """beta KL(teacher || m) + (1 - beta) KL(student || m), where m = beta t + (1 - beta) s.

    Source: Agarwal et al. 2023, arXiv:2306.13649, equation 1.
    """
    middle = torch.logaddexp(
        teacher.log_probs + math.log(beta), student.log_probs + math.log1p(-beta)
    )
    of_teacher = (teacher.probs * (teacher.log_probs - middle)).sum(1)
    of_student, gradient = _through_probs(student, student.log_probs - middle)
    return beta * of_teacher + (1 - beta) * of_student, gradient.mul_(1 - beta)


def _through_probs(student: Probs, difference: Tensor) -> tuple[Tensor, Tensor]:
    """Average differences under the student; a softmax lets through what is above the average."""
    value = (student.probs * difference).sum(1)
    return value, (difference - value[:, None]).mul_(student.probs)


DIVERGENCES: dict[str, Callable[[float], Divergence]] = {
    "forward_kl": lambda beta: forward_kl,
    "reverse_kl": lambda beta: reverse_kl,
    "jensen_shannon": lambda beta: partial(jensen_shannon, beta=beta),
}
