"""What stands for the classes that were left out, and what the student's logits get to hear of it.

A rule gives a number a position and its derivative by the student's logits. Dozens of small
operations and their backward passes would cost a small student a noticeable share of its step; in
closed form the gradient is nearly free where the value is computed.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.losses.divergence import Divergence, normalise, softmax
from pipeline.targets import (
    Targets,
    log_tail_sum,
    low_rank_logits,
    soften,
    uniform_logits,
    weigh_draws,
)
from pipeline.targets.rounding import LOWEST_LOGIT

# Of the student's logits (P, C), targets of P positions, a temperature and a divergence: a number
# a position (P,), and its derivative by the logits (P, C).
Rule = Callable[[Tensor, Targets, float, Divergence], tuple[Tensor, Tensor]]
Answer = tuple[Tensor, Tensor]


def dense(logits: Tensor, targets: Targets, temperature: float, divergence: Divergence) -> Answer:
    """Compare all classes, where all were kept."""
    teacher = targets.logits / temperature
    if targets.classes is not None:  # the same classes in another order
        teacher = torch.empty_like(teacher).scatter_(1, targets.classes, teacher)
    return compare(teacher, logits, temperature, divergence)


def low_rank(
    logits: Tensor, targets: Targets, temperature: float, divergence: Divergence
) -> Answer:
    """Compare all classes, the left-out ones rebuilt from their shape."""
    return compare(low_rank_logits(targets, temperature), logits, temperature, divergence)


def uniform(logits: Tensor, targets: Targets, temperature: float, divergence: Divergence) -> Answer:
    """Compare all classes, the left-out ones being all alike."""
    return compare(uniform_logits(targets, temperature), logits, temperature, divergence)


def bucket(logits: Tensor, targets: Targets, temperature: float, divergence: Divergence) -> Answer:
    """Compare K kept classes and their tail as one more: never more than all classes would give.

    The derivative by one of the left-out classes is its share of the bucket's.

    Source: the chain rule; `gradcheck` in the tests.
    """
    assert targets.classes is not None
    # The tail is one more class.
    log_tail = log_tail_sum(targets, temperature)[:, None]
    teacher = torch.cat([targets.logits / temperature, log_tail], 1)  # (P, K + 1)
    return compare_bucket(
        logits, targets.classes, teacher, targets.is_spare, temperature, divergence
    )


def renormalise(
    logits: Tensor, targets: Targets, temperature: float, divergence: Divergence
) -> Answer:
    """Make the kept classes sum to 1, and compare those."""
    log_probs = soften(targets, temperature).log_probs.log_softmax(1)
    return compare_some(logits, targets.classes, log_probs.exp(), log_probs, temperature)


def none(logits: Tensor, targets: Targets, temperature: float, divergence: Divergence) -> Answer:
    """Compare the kept classes as they are."""
    log_probs = soften(targets, temperature).log_probs
    return compare_some(logits, targets.classes, log_probs.exp(), log_probs, temperature)


def sampled(logits: Tensor, targets: Targets, temperature: float, divergence: Divergence) -> Answer:
    """Let draws stand for the left-out classes: on average the comparison of all classes.

    Source: Anshumann et al. 2025, arXiv:2503.16870, section 3.
    """
    assert targets.classes is not None
    assert targets.drawn is not None
    weights, log_drawn = weigh_draws(targets, temperature)
    log_kept = soften(targets, temperature).log_probs
    return compare_some(
        logits,
        torch.cat([targets.classes, targets.drawn], 1),
        torch.cat([log_kept.exp(), weights], 1),
        torch.cat([log_kept, log_drawn], 1),
        temperature,
    )


def compare_bucket(
    logits: Tensor,
    classes: Tensor,
    teacher: Tensor,
    spare: Tensor | None,
    temperature: float,
    divergence: Divergence,
) -> Answer:
    """Compare some classes, each once but for spare places, and all others as one more.

    Shapes: logits (P, C); classes and spare (P, K); teacher (P, K + 1), softened logits.
    """
    k = classes.shape[1]
    student = logits / temperature
    kept = student.gather(1, classes)  # (P, K)
    if spare is not None:
        kept.masked_fill_(spare, LOWEST_LOGIT)
    rest = student.scatter_(1, classes, -math.inf)  # (P, C)
    # Among themselves: a small tail would underflow; 1 minus the kept mass is rounded.
    shares, log_rest = softmax(rest)
    value, of_kept = divergence(normalise(teacher), normalise(torch.cat([kept, log_rest], 1)))
    of_kept.div_(temperature)
    gradient = shares.mul_(of_kept[:, k:])
    return value, gradient.scatter_add_(1, classes, of_kept[:, :k].to(gradient.dtype))


def compare(teacher: Tensor, logits: Tensor, temperature: float, divergence: Divergence) -> Answer:
    """Compare all classes; `teacher` may be overwritten. Shapes: teacher and logits (P, C)."""
    value, gradient = divergence(normalise(teacher), normalise(logits / temperature))
    return value, gradient.div_(temperature).to(logits.dtype)


def compare_some(
    logits: Tensor, classes: Tensor | None, weights: Tensor, log_probs: Tensor, temperature: float
) -> Answer:
    """Sum w (log p - log q) over some classes, which may repeat; the gradient is W q - w.

    Shapes: logits (P, C); classes, weights and log_probs (P, E).
    """
    assert classes is not None
    student = logits / temperature
    probs, log_sum = softmax(student)
    value = (log_probs - student.gather(1, classes).sub_(log_sum)).mul_(weights).sum(1)
    weights = weights / temperature
    gradient = probs.mul_(weights.sum(1, keepdim=True))
    return value, gradient.scatter_add_(1, classes, -weights.to(gradient.dtype))


RULES: dict[str, Rule] = {
    "bucket": bucket,
    "low_rank": low_rank,
    "sampled": sampled,
    "uniform": uniform,
    "renormalise": renormalise,
    "none": none,
}
# What compares the kept classes alone knows only how the teacher weighs them, not the student's
# mass elsewhere; of draws the logarithm of an estimate would be needed.
FORWARD_ONLY = {
    "sampled": "the logarithm of an estimate is biased, and infinite for what was not drawn",
    "renormalise": "what the student says of left-out classes has nothing to be compared with",
    "none": "what the student says of left-out classes has nothing to be compared with",
}
