"""What stands for the classes that were left out, and what the student's logits get to hear of it.

A rule is told the targets once, and then compares block after block of the student's logits with
them: a number a position and its derivative by the logits. Dozens of small operations and their
backward passes would cost a small student a noticeable share of its step; in closed form the
gradient is nearly free where the value is computed, and what follows from kept classes alone is
computed for all positions at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.losses.divergence import Divergence, Probs, forward_kl
from pipeline.losses.term import Answer, Block, Places, Rule, cut, in_blocks
from pipeline.targets import (
    FEW_CLASSES,
    PROBED,
    Targets,
    leave_out,
    log_sums_of,
    log_tail_sum,
    low_rank_probs,
    make_exps,
    normalise,
    rebuild_tail,
    soften,
    uniform_logits,
    weigh_draws,
)
from pipeline.targets.rounding import LOWEST_LOGIT

# How far below the largest logit of all the largest of the left-out may be, in nats: float32 ends
# at 87.
FAR = 60.0
# The least that a tail's derivative is taken for: what is divided by it stays finite in float32,
# and times it, is what it was. Of a class it is nothing beside the rounding of others.
LEAST = 1e-20
# Of targets of P positions, a temperature and a divergence.
MakeRule = Callable[[Targets, float, Divergence], Rule]


def dense(targets: Targets, temperature: float, divergence: Divergence) -> Rule:
    """Compare all classes, where all were kept."""

    def rebuild(places: Places) -> Probs:
        teacher = cut(targets.logits, places)
        if targets.classes is not None:  # the same classes in another order
            at = cut(targets.classes, places)
            teacher = torch.empty_like(teacher).scatter_(1, at, teacher)
        return Probs(*normalise(teacher, temperature))

    if targets.class_count >= FEW_CLASSES:
        return compare_all(rebuild, divergence, temperature)
    taught = rebuild(slice(0, len(targets)))
    return compare_all(taught.at, divergence, temperature)


def low_rank(targets: Targets, temperature: float, divergence: Divergence) -> Rule:
    """Compare all classes, the left-out ones rebuilt from their shape."""
    if divergence is forward_kl and targets.class_count >= FEW_CLASSES:
        return compare_shape(targets, temperature)
    return compare_all(
        lambda places: Probs(*low_rank_probs(cut(targets, places), temperature)),
        divergence,
        temperature,
    )


def uniform(targets: Targets, temperature: float, divergence: Divergence) -> Rule:
    """Compare all classes, the left-out ones being all alike."""
    return compare_all(
        lambda places: Probs(*normalise(uniform_logits(cut(targets, places), temperature))),
        divergence,
        temperature,
    )


def bucket(targets: Targets, temperature: float, divergence: Divergence) -> Rule:
    """Compare K kept classes and their tail as one more: never more than all classes would give.

    The derivative by one of the left-out classes is its share of the bucket's.

    Source: the chain rule; `gradcheck` in the tests.
    """
    assert targets.classes is not None
    # The tail is one more class.
    log_tail = log_tail_sum(targets, temperature)[:, None]
    teacher = torch.cat([targets.logits / temperature, log_tail], 1)  # (P, K + 1)
    return compare_bucket(targets.classes, teacher, targets.is_spare, divergence, temperature)


def renormalise(targets: Targets, temperature: float, divergence: Divergence) -> Rule:
    """Make the kept classes sum to 1, and compare those."""
    log_probs = soften(targets, temperature).log_probs.log_softmax(1)
    return compare_some(targets.classes, log_probs.exp(), log_probs, temperature)


def none(targets: Targets, temperature: float, divergence: Divergence) -> Rule:
    """Compare the kept classes as they are."""
    log_probs = soften(targets, temperature).log_probs
    return compare_some(targets.classes, log_probs.exp(), log_probs, temperature)


def sampled(targets: Targets, temperature: float, divergence: Divergence) -> Rule:
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
        temperature,
    )


def compare_bucket(
    classes: Tensor,
    teacher: Tensor,
    spare: Tensor | None,
    divergence: Divergence,
    temperature: float,
) -> Rule:
    """Compare some classes, each once but for spare places, and all others as one more.

    Shapes: classes and spare (P, K); teacher (P, K + 1), softened logits.
    """
    k = classes.shape[1]
    taught = Probs(*normalise(teacher))

    def compare(block: Block) -> Answer:
        here = cut(classes, block.places)
        rest, left = _own(block, temperature)  # (p, C)
        kept = rest.gather(1, here)  # (p, K)
        if left != 1:
            kept = kept.div_(left)
        if spare is not None:
            kept.masked_fill_(cut(spare, block.places), LOWEST_LOGIT)
        leave_out(rest, here, left)
        # Among themselves: a small tail would underflow; 1 minus the kept mass is rounded.
        largest = block.largest if _is_near(rest, block.largest, left) else None
        exps, sums, log_rest = make_exps(rest, left, overwrite=True, largest=largest)
        asked = Probs(*normalise(torch.cat([kept, log_rest], 1), overwrite=True))
        value, of_kept = divergence(taught.at(block.places), asked)
        tail, kept_alone = of_kept[:, k:], of_kept[:, :k]
        if sums is None:  # of few classes an operation costs more than a pass
            return Answer(value, Answer(value, exps, tail, here, kept_alone).derivative())
        tail = tail.where(tail.abs() > LEAST, LEAST)
        return Answer(value, exps, tail / sums, here, kept_alone)

    return compare


def _is_near(rest: Tensor, largest: Tensor | None, temperature: float) -> bool:
    """Say whether exps of what is left, relative to the largest of all, are far from underflowing:
    that of a few classes tells, without a pass over all. A GPU would be waited for.
    """
    if largest is None or rest.device.type != "cpu":
        return False
    few = rest[:, :PROBED].amax(1, keepdim=True)
    return float((largest - few).max()) < FAR * temperature


def _own(block: Block, temperature: float) -> tuple[Tensor, float]:
    """Give logits that may be overwritten, and by what they have yet to be divided: of many classes
    that is done in the pass in which their exps are made.
    """
    if block.logits.shape[1] < FEW_CLASSES:
        return block.logits / temperature, 1.0
    return block.logits if block.spare else block.logits.clone(), temperature


def compare_all(
    rebuild: Callable[[Places], Probs], divergence: Divergence, temperature: float
) -> Rule:
    """Compare all classes; as the teacher's are as many as the student's, they are made for the
    positions at hand.

    Shapes: rebuild gives (p, C).
    """

    def compare(block: Block) -> Answer:
        logits, places, spare, _ = block
        asked = Probs(*normalise(logits, temperature, overwrite=spare))
        value, gradient = divergence(rebuild(places), asked)
        return Answer(value, gradient.to(logits.dtype))

    return in_blocks(compare)


def compare_shape(targets: Targets, temperature: float) -> Rule:
    """Compare all classes, the left-out ones rebuilt from their shape, by KL(teacher || student).

    Logarithms of probabilities are never made: those of either side are logits and a number a
    position. What concerns kept classes is added apart, so that each class is passed over less.

    Source: KL = sum of p (log p - log q), with log p = t - log sum exp t and log q = s - log sum
        exp s; the chain rule; `gradcheck` in the tests.
    """
    assert targets.classes is not None
    classes = targets.classes

    def compare(block: Block) -> Answer:
        here = cut(classes, block.places)
        taught = rebuild_tail(cut(targets, block.places), temperature)
        log_kept, log_tail = taught.soft.log_probs, taught.soft.log_tail
        assert log_tail is not None
        kept, tail = log_kept.exp(), log_tail.exp()
        own, left = _own(block, temperature)
        # Near 0: sums of differences must not be rounded by what all have in common.
        level = own[:, :PROBED].amax(1, keepdim=True)
        own = torch.add(level * (-1 / left), own, alpha=1 / left, out=own)
        asked = own.gather(1, here)  # (p, K)
        place = taught.logits if taught.logits.dtype == own.dtype else None
        apart = torch.sub(taught.logits, own, out=place).mul_(taught.probs).sum(1)
        probs = torch.softmax(own, 1, out=place)
        total = kept.sum(1) + tail  # 1, but for rounding
        apart = apart + log_tail - taught.log_sums[:, 0]
        value = (kept * (log_kept - asked)).sum(1) + tail * apart
        value = value + total * log_sums_of(own, probs)[:, 0]
        gradient = torch.addcmul(probs, taught.probs, tail[:, None], value=-1, out=own)
        return Answer(value, gradient, None, here, -kept)

    return in_blocks(compare)


def compare_some(
    classes: Tensor | None, weights: Tensor, log_probs: Tensor, temperature: float
) -> Rule:
    """Sum w (log p - log q) over some classes, which may repeat; the gradient is W q - w.

    Shapes: classes, weights and log_probs (P, E).
    """
    assert classes is not None
    pull, total = -weights, weights.sum(1, keepdim=True)

    def compare(block: Block) -> Answer:
        logits, places, spare, largest = block
        here = cut(classes, places)
        asked = logits.gather(1, here).div_(temperature)
        exps, sums, log_sums = make_exps(logits, temperature, overwrite=spare, largest=largest)
        surprise = cut(log_probs, places) - asked.sub_(log_sums)
        value, rows = surprise.mul_(cut(weights, places)).sum(1), cut(total, places)
        return Answer(value, exps, rows if sums is None else rows / sums, here, cut(pull, places))

    return compare


RULES: dict[str, MakeRule] = {
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
