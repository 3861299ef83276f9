"""The rules of tails for several teachers at once: what their average says, and to whom.

Each is the rule of the same name, of the average of the teachers' softened distributions.
"""

from collections.abc import Callable
from functools import partial

import torch

from pipeline.losses.divergence import Divergence, Probs
from pipeline.losses.tails import (
    RULES,
    compare_all,
    compare_bucket,
    compare_some,
    dense,
)
from pipeline.losses.term import Answer, Block, Rule, cut, in_blocks
from pipeline.targets import Mixture, normalise
from pipeline.targets.mixtures import average, merge, merge_kept

# As a `MakeRule`, of a mixture.
MakeMixtureRule = Callable[[Mixture, float, Divergence], Rule]


def over_all(
    mixture: Mixture, temperature: float, divergence: Divergence, *, shaped: bool = True
) -> Rule:
    """Compare all classes, those that were left out filled in."""
    return compare_all(
        lambda places: Probs(*normalise(average(cut(mixture, places), temperature, shaped=shaped))),
        divergence,
        temperature,
    )


def bucket(mixture: Mixture, temperature: float, divergence: Divergence) -> Rule:
    """Compare the classes that any teacher kept, and what is left of their tails as one more."""
    if not all(targets.has_tail for targets in mixture.members):
        return over_all(mixture, temperature, divergence)
    merged = merge(mixture, temperature)
    teacher = torch.cat([merged.log_probs, merged.log_tail[:, None]], 1)  # (P, U + 1)
    return compare_bucket(merged.classes, teacher, merged.is_spare, divergence, temperature)


def of_kept(
    mixture: Mixture, temperature: float, divergence: Divergence, *, renormalise: bool
) -> Rule:
    """Compare what the teachers kept, with nothing for what they left out."""
    classes, log_probs = merge_kept(mixture, temperature, renormalise=renormalise)
    return compare_some(classes, log_probs.exp(), log_probs, temperature)


def sampled(mixture: Mixture, temperature: float, divergence: Divergence) -> Rule:
    """Average the comparisons with each teacher, whose gradients are that of the average.

    What a teacher that did not draw a class thinks of it is unknown, and with it the entropy of the
    average: the value is above the divergence by as much as the teachers differ, a constant.
    """
    compares = [
        (RULES["sampled"] if targets.has_tail else dense)(targets, temperature, divergence)
        for targets in mixture.members
    ]

    def compare(block: Block) -> Answer:
        answers = [each(block._replace(spare=False)) for each in compares]
        values = [w * each.value for w, each in zip(mixture.weights, answers, strict=True)]
        gradients = [each.derivative(w) for w, each in zip(mixture.weights, answers, strict=True)]
        return Answer(torch.stack(values).sum(0), torch.stack(gradients).sum(0))

    return in_blocks(compare)


MIXTURE_RULES: dict[str, MakeMixtureRule] = {
    "bucket": bucket,
    "low_rank": over_all,
    "sampled": sampled,
    "uniform": partial(over_all, shaped=False),
    "renormalise": partial(of_kept, renormalise=True),
    "none": partial(of_kept, renormalise=False),
}
