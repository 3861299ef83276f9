"""The divergence of the student from the teacher, with its gradient written out.

Dozens of small operations and their backward passes would cost a small student a noticeable share
of its step. The gradients are known in closed form and nearly free where the value is computed, so
all of a batch is one node of autograd's graph, and what can be left unnormalised is.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.losses.average import at_least_float32
from pipeline.targets import Targets, log_tail_sum

# Of logits (P, C), targets of P positions and a temperature: the sum over positions, and its
# derivative by the logits (P, C).
Rule = Callable[[Tensor, Targets, float], tuple[Tensor, Tensor]]


class Divergence(torch.autograd.Function):
    """The value of a rule; its gradient is computed with it and kept for the backward pass.

    Shapes: logits (P, C); gives ().
    Units: nats.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rule: Rule, targets: Targets, temperature: float
    ) -> Tensor:
        """Compute both at once: the gradient is a few operations more."""
        value, gradient = rule(at_least_float32(logits), targets, temperature)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale the gradient that was kept."""
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None, None


def diverge_dense(logits: Tensor, targets: Targets, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum KL(teacher || student) over all classes; the gradient is (q - p) / T.

    Shapes: logits (P, C), targets that keep all C classes; returns () and (P, C).
    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, equation 2.
    """
    teacher, student = targets.logits / temperature, _relative(logits, temperature)
    if targets.classes is not None:  # the same classes in another order
        teacher = torch.empty_like(teacher).scatter_(1, targets.classes, teacher)
    teacher_powers, student_powers = teacher.exp(), student.exp()
    teacher_total, student_total = (
        powers.sum(1, keepdim=True) for powers in (teacher_powers, student_powers)
    )
    probs = teacher_powers.div_(teacher_total)
    value = (probs * (teacher - student)).sum() + (student_total / teacher_total).log_().sum()
    gradient = student_powers.div_(student_total).sub_(probs).div_(temperature)
    return value, gradient


def diverge_bucket(logits: Tensor, targets: Targets, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum KL(teacher || student) over K kept classes and their tail as one more.

    With q the student's softmax, p and t the teacher's probabilities of the kept classes and of the
    tail, the gradient by the student's logits over T is q - p at a kept class. The left-out ones
    share Q - t, Q being the sum of their q, in proportion to q.

    Shapes: logits (P, C), targets with a tail; returns () and (P, C).
    Source: the chain rule; `gradcheck` in the tests.
    """
    assert targets.classes is not None
    k = targets.logits.shape[1]
    # The tail is one more class.
    teacher = torch.cat(
        [targets.logits / temperature, log_tail_sum(targets, temperature)[:, None]], 1
    )  # (P, K + 1)
    probs = teacher.exp()
    teacher_total = probs.sum(1, keepdim=True)
    probs.div_(teacher_total)

    student = _relative(logits, temperature)
    kept = student.gather(1, targets.classes)  # (P, K)
    rest = student.scatter_(1, targets.classes, -math.inf)  # (P, C)
    # Relative to its own best: a small tail would underflow; 1 minus the kept mass is rounded.
    best = rest.amax(1, keepdim=True)
    rest.sub_(best).exp_()
    rest_sum = rest.sum(1, keepdim=True)
    student = torch.cat([kept, best.add_(rest_sum.log())], 1)  # (P, K + 1)
    powers = student.exp()
    student_total = powers.sum(1, keepdim=True)

    of_totals = (student_total / teacher_total).log_().sum()
    value = (probs * (teacher - student)).sum().add_(of_totals)
    difference = powers.div_(student_total).sub_(probs).div_(temperature)  # (P, K + 1)
    gradient = rest.mul_(difference[:, k:] / rest_sum)
    return value, gradient.scatter_(1, targets.classes, difference[:, :k])


def _relative(logits: Tensor, temperature: float) -> Tensor:
    """Soften logits, relative to the largest of each position. Shapes: (P, C)."""
    return (logits - logits.amax(1, keepdim=True)).div_(temperature)
