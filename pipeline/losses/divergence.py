"""The divergence of the student from the teacher, with its gradient written out.

A dozen small operations and their backward passes would cost a small student a noticeable share of
its step. The gradients are known in closed form, and nearly free where the value is computed; so is
the softmax, for torch's own takes 19 microseconds for 128 rows of 10 classes, and exp and sum 6.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class DenseDivergence(torch.autograd.Function):
    """KL(teacher || student) of each position over all classes; the gradient is q - p.

    Shapes: student (P, C), divided by the temperature; log_probs (P, C); gives (P,).
    Units: nats.
    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, equation 2.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, log_probs: Tensor) -> Tensor:
        """Compute the divergence, and its gradient where it will be asked for."""
        relative = student - student.amax(1, keepdim=True)  # (P, C)
        powers = relative.exp()
        total = powers.sum(1, keepdim=True)
        probs = log_probs.exp()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(powers / total - probs)
        return (probs * (log_probs - relative + total.log())).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None]:
        """Scale the gradient that was kept."""
        (gradient,) = ctx.saved_tensors
        return gradient * scale[:, None], None


class BucketDivergence(torch.autograd.Function):
    """KL(teacher || student) of each position, over K kept classes and their tail as one more.

    With q the student's softmax, p and t the teacher's probabilities of the kept classes and of the
    tail, the gradient by the student's logits is q - p at a kept class. The left-out ones share
    Q - t, Q being the sum of their q, in proportion to q.

    Shapes: student (P, C), divided by the temperature; classes and log_probs (P, K), log_tail (P,);
        gives (P,).
    Units: nats.
    Source: the chain rule; `gradcheck` in the tests.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, classes: Tensor, log_probs: Tensor, log_tail: Tensor
    ) -> Tensor:
        """Compute the divergence, and its gradient where it will be asked for."""
        relative = student - student.amax(1, keepdim=True)  # (P, C)
        kept = relative.gather(1, classes)  # (P, K)
        rest = relative.scatter(1, classes, -math.inf)
        # Relative to its own best: a small tail would underflow; 1 minus the kept mass is rounded.
        best = rest.amax(1, keepdim=True)
        powers = rest.sub_(best).exp_()  # (P, C)
        sum_rest = powers.sum(1, keepdim=True)
        log_rest = best + sum_rest.log()  # (P, 1)
        log_total = (kept.exp().sum(1, keepdim=True) + log_rest.exp()).log()
        log_kept, log_rest = kept - log_total, log_rest - log_total
        probs, mass = log_probs.exp(), log_tail.exp()[:, None]
        if ctx.needs_input_grad[0]:
            powers.mul_((log_rest.exp() - mass) / sum_rest)
            ctx.save_for_backward(powers.scatter_(1, classes, log_kept.exp() - probs))
        of_tail = mass * (log_tail[:, None] - log_rest)
        return (probs * (log_probs - log_kept)).sum(1) + of_tail[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale the gradient that was kept."""
        (gradient,) = ctx.saved_tensors
        return gradient * scale[:, None], None, None, None
