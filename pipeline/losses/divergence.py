"""The divergence of the student from the teacher, with its gradient written out.

Dozens of small operations and their backward passes would cost a small student a noticeable share
of its step. The gradients are known in closed form and nearly free where the value is computed, so
all of a batch is one node of autograd's graph.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.losses.average import at_least_float32
from pipeline.targets import Targets, log_tail_sum, low_rank_logits

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
    teacher = targets.logits / temperature
    if targets.classes is not None:  # the same classes in another order
        teacher = torch.empty_like(teacher).scatter_(1, targets.classes, teacher)
    return _diverge(teacher, logits / temperature, temperature)


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
    log_tail = log_tail_sum(targets, temperature)[:, None]
    teacher = torch.cat([targets.logits / temperature, log_tail], 1)  # (P, K + 1)

    student = logits / temperature
    kept = student.gather(1, targets.classes)  # (P, K)
    rest = student.scatter_(1, targets.classes, -math.inf)  # (P, C)
    # Among themselves: a small tail would underflow; 1 minus the kept mass is rounded.
    log_shares = rest.log_softmax(1)
    log_rest = rest.amax(1, keepdim=True).sub_(log_shares.amax(1, keepdim=True))
    value, of_kept = _diverge(teacher, torch.cat([kept, log_rest], 1), temperature)
    gradient = log_shares.exp_().mul_(of_kept[:, k:])
    return value, gradient.scatter_(1, targets.classes, of_kept[:, :k])


def diverge_low_rank(logits: Tensor, targets: Targets, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum KL(teacher || student) over all classes, the left-out ones rebuilt from their shape.

    Shapes: logits (P, C), targets with a low-rank tail; returns () and (P, C).
    """
    return _diverge(low_rank_logits(targets, temperature), logits / temperature, temperature)


def _diverge(teacher: Tensor, student: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Shapes: softened logits (P, N); returns () and (P, N), the derivative by the logits."""
    teacher, student = teacher.log_softmax(1), student.log_softmax(1)
    probs = teacher.exp()
    value = (teacher - student).mul_(probs).sum()  # as precise as the more precise of the two
    return value, student.exp_().sub_(probs).div_(temperature)
