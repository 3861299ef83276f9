"""The rules of tails for several teachers at once: what their average says, and to whom.

Each is the rule of the same name, of the average of the teachers' softened distributions.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pipeline.losses.divergence import Divergence, normalise
from pipeline.losses.tails import (
    RULES,
    Answer,
    Compare,
    compare_all,
    compare_bucket,
    compare_some,
    dense,
)
from pipeline.losses.term import Places, cut
from pipeline.targets import Mixture
from pipeline.targets.mixtures import average, merge, merge_kept

# As a `Rule`, of a mixture.
MixtureRule = Callable[[Mixture, float, Divergence], Compare]


def over_all(
    mixture: Mixture, temperature: float, divergence: Divergence, *, shaped: bool = True
) -> Compare:
    """Compare all classes, those that were left out filled in."""
    return compare_all(
        lambda places: normalise(average(cut(mixture, places), temperature, shaped=shaped)),
        divergence,
    )


def bucket(mixture: Mixture, temperature: float, divergence: Divergence) -> Compare:
    """Compare the classes that any teacher kept, and what is left of their tails as one more."""
    if not all(targets.has_tail for targets in mixture.members):
        return over_all(mixture, temperature, divergence)
    merged = merge(mixture, temperature)
    teacher = torch.cat([merged.log_probs, merged.log_tail[:, None]], 1)  # (P, U + 1)
    return compare_bucket(merged.classes, teacher, merged.is_spare, divergence)


def of_kept(
    mixture: Mixture, temperature: float, divergence: Divergence, *, renormalise: bool
) -> Compare:
    """Compare what the teachers kept, with nothing for what they left out."""
    classes, log_probs = merge_kept(mixture, temperature, renormalise=renormalise)
    return compare_some(classes, log_probs.exp(), log_probs)


def sampled(mixture: Mixture, temperature: float, divergence: Divergence) -> Compare:
    """Average the comparisons with each teacher, whose gradients are that of the average.

    What a teacher that did not draw a class thinks of it is unknown, and with it the entropy of the
    average: the value is above the divergence by as much as the teachers differ, a constant.
    """
    compares = [
        (RULES["sampled"] if targets.has_tail else dense)(targets, temperature, divergence)
        for targets in mixture.members
    ]

    def compare(logits: Tensor, places: Places) -> Answer:
        answers = [each(logits, places) for each in compares]
        values = [w * value for w, (value, _) in zip(mixture.weights, answers, strict=True)]
        gradients = [g.mul_(w) for w, (_, g) in zip(mixture.weights, answers, strict=True)]
        return torch.stack(values).sum(0), torch.stack(gradients).sum(0)

    return compare


MIXTURE_RULES: dict[str, MixtureRule] = {
    "bucket": bucket,
    "low_rank": over_all,
    "sampled": sampled,
    "uniform": partial(over_all, shaped=False),
    "renormalise": partial(of_kept, renormalise=True),
    "none": partial(of_kept, renormalise=False),
}
