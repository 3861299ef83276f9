"""How far two distributions are apart, with the gradient written out.

Each takes log-probabilities and gives a number a position with its derivative by the logits of
the student. Knows neither targets nor temperatures.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

# Of log-probs of teacher and student (P, N), which may be overwritten: the divergence (P,), and its
# derivative by the student's logits (P, N).
Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def forward_kl(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || student); the gradient is q - p.

    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, equation 2.
    """
    probs = teacher.exp()
    value = (teacher - student).mul_(probs).sum(1)  # as precise as the more precise of the two
    return value, student.exp_().sub_(probs)


def reverse_kl(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """KL(student || teacher): a student is punished for what the teacher would not say.

    Source: Gu et al. 2023, arXiv:2306.08543, section 2.
    """
    return _through_probs(student, student - teacher)


def jensen_shannon(teacher: Tensor, student: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """beta KL(teacher || m) + (1 - beta) KL(student || m), where m = beta t + (1 - beta) s.

    Source: Agarwal et al. 2023, arXiv:2306.13649, equation 1.
    """
    middle = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    of_teacher = (teacher.exp() * (teacher - middle)).sum(1)
    of_student, gradient = _through_probs(student, student - middle)
    return beta * of_teacher + (1 - beta) * of_student, gradient.mul_(1 - beta)


def _through_probs(student: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
    """Average differences under the student; a softmax lets through what is above the average."""
    probs = student.exp()
    value = (probs * difference).sum(1)
    return value, probs.mul_(difference - value[:, None])


DIVERGENCES: dict[str, Callable[[float], Divergence]] = {
    "forward_kl": lambda beta: forward_kl,
    "reverse_kl": lambda beta: reverse_kl,
    "jensen_shannon": lambda beta: partial(jensen_shannon, beta=beta),
}
