"""What stands for the classes that were left out, and what the student's logits get to hear of it.

A rule is told the targets once, and then compares block after block of the student's logits with
them: a number a position and its derivative by the logits. Dozens of small operations and their
backward passes would cost a small student a noticeable share of its step; in closed form the
gradient is nearly free where the value is computed, and what follows from kept classes alone is
computed for all positions at once.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.losses.divergence import Divergence, Probs, normalise
from pipeline.losses.term import Places, cut
from pipeline.targets import (
    FEW_CLASSES,
    Targets,
    log_tail_sum,
    low_rank_probs,
    soften,
    softmax,
    uniform_logits,
    weigh_draws,
)
from pipeline.targets.rounding import LOWEST_LOGIT

# A number a position (p,), and its derivative by the student's divided logits (p, C).
Answer = tuple[Tensor, Tensor]
# Of the student's logits (p, C) at some of the P positions, divided by the temperature, which may
# be overwritten, and of which positions these are.
Compare = Callable[[Tensor, Places], Answer]
# Of targets of P positions, a temperature and a divergence.
Rule = Callable[[Targets, float, Divergence], Compare]


def dense(targets: Targets, temperature: float, divergence: Divergence) -> Compare:
    """Compare all classes, where all were kept."""

    def rebuild(places: Places) -> Probs:
        teacher = cut(targets.logits, places) / temperature
        if targets.classes is not None:  # the same classes in another order
            at = cut(targets.classes, places)
            teacher = torch.empty_like(teacher).scatter_(1, at, teacher)
        return normalise(teacher)

    if targets.class_count >= FEW_CLASSES:
        return compare_all(rebuild, divergence)
    taught = rebuild(slice(0, len(targets)))
    return compare_all(taught.at, divergence)


def low_rank(targets: Targets, temperature: float, divergence: Divergence) -> Compare:
    """Compare all classes, the left-out ones rebuilt from their shape."""
    return compare_all(
        lambda places: Probs(*low_rank_probs(cut(targets, places), temperature)), divergence
    )


def uniform(targets: Targets, temperature: float, divergence: Divergence) -> Compare:
    """Compare all classes, the left-out ones being all alike."""
    return compare_all(
        lambda places: normalise(uniform_logits(cut(targets, places), temperature)), divergence
    )


def bucket(targets: Targets, temperature: float, divergence: Divergence) -> Compare:
    """Compare K kept classes and their tail as one more: never more than all classes would give.

    The derivative by one of the left-out classes is its share of the bucket's.

    Source: the chain rule; `gradcheck` in the tests.
    """
    assert targets.classes is not None
    # The tail is one more class.
    log_tail = log_tail_sum(targets, temperature)[:, None]
    teacher = torch.cat([targets.logits / temperature, log_tail], 1)  # (P, K + 1)
    return compare_bucket(targets.classes, teacher, targets.is_spare, divergence)


def renormalise(targets: Targets, temperature: float, divergence: Divergence) -> Compare:
    """Make the kept classes sum to 1, and compare those."""
    log_probs = soften(targets, temperature).log_probs.log_softmax(1)
    return compare_some(targets.classes, log_probs.exp(), log_probs)


def none(targets: Targets, temperature: float, divergence: Divergence) -> Compare:
    """Compare the kept classes as they are."""
    log_probs = soften(targets, temperature).log_probs
    return compare_some(targets.classes, log_probs.exp(), log_probs)


def sampled(targets: Targets, temperature: float, divergence: Divergence) -> Compare:
    """Let draws stand for the left-out classes: on average the comparison of all classes.

    Source: Anshumann et al. 2025, arXiv:2503.16870, section 3.
    """
    assert targets.classes is not None
    assert targets.drawn is not None
    weights, log_drawn = weigh_draws(targets, temperature)
    log_kept = soften(targets, temperature).log_probs
    return compare_some(
        torch.cat([targets.classes, targets.drawn], 1),
        torch.cat([log_kept.exp(), weights], 1),
        torch.cat([log_kept, log_drawn], 1),
    )


def compare_bucket(
    classes: Tensor,
    teacher: Tensor,
    spare: Tensor | None,
    divergence: Divergence,
) -> Compare:
    """Compare some classes, each once but for spare places, and all others as one more.

    Shapes: classes and spare (P, K); teacher (P, K + 1), softened logits.
    """
    k = classes.shape[1]
    taught = normalise(teacher)

    def compare(logits: Tensor, places: Places) -> Answer:
        here = cut(classes, places)
        kept = logits.gather(1, here)  # (p, K)
        if spare is not None:
            kept.masked_fill_(cut(spare, places), LOWEST_LOGIT)
        rest = logits.scatter_(1, here, -math.inf)  # (p, C)
        # Among themselves: a small tail would underflow; 1 minus the kept mass is rounded.
        shares, log_rest = softmax(rest)
        asked = normalise(torch.cat([kept, log_rest], 1))
        value, of_kept = divergence(taught.at(places), asked)
        gradient = shares.mul_(of_kept[:, k:])
        return value, gradient.scatter_add_(1, here, of_kept[:, :k].to(gradient.dtype))

    return compare


def compare_all(rebuild: Callable[[Places], Probs], divergence: Divergence) -> Compare:
    """Compare all classes; as the teacher's are as many as the student's, they are made for the
    positions at hand.

    Shapes: rebuild gives (p, C).
    """

    def compare(logits: Tensor, places: Places) -> Answer:
        value, gradient = divergence(rebuild(places), normalise(logits))
        return value, gradient.to(logits.dtype)

    return compare


def compare_some(classes: Tensor | None, weights: Tensor, log_probs: Tensor) -> Compare:
    """Sum w (log p - log q) over some classes, which may repeat; the gradient is W q - w.

    Shapes: classes, weights and log_probs (P, E).
    """
    assert classes is not None
    pull, total = -weights, weights.sum(1, keepdim=True)

    def compare(logits: Tensor, places: Places) -> Answer:
        here = cut(classes, places)
        probs, log_sum = softmax(logits)
        surprise = cut(log_probs, places) - logits.gather(1, here).sub_(log_sum)
        value = surprise.mul_(cut(weights, places)).sum(1)
        gradient = probs.mul_(cut(total, places))
        return value, gradient.scatter_add_(1, here, cut(pull, places).to(gradient.dtype))

    return compare


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
