"""The student's softened distribution against the teacher's, whole or cut to the kept classes.

Knows the targets and logits of one batch of positions. Does not know samples, caches or ranks: the
share of a batch in a larger one is given as `count`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.losses.average import share
from pipeline.losses.divergence import DIVERGENCES, Divergence
from pipeline.losses.few.targets import few_targets
from pipeline.losses.mixtures import MIXTURE_RULES, over_all
from pipeline.losses.tails import FORWARD_ONLY, RULES, dense
from pipeline.losses.term import Answer, Block, FewRuleAt, Rule, Term, apply, cut, in_blocks
from pipeline.targets import Mixture, Targets, check_temperature

WEIGHTS = ("confidence", "entropy", "pseudo_label")
# What one teacher said, or several.
Taught = Targets | Mixture
# From the richest to the plainest of those that are chosen where none is named.
TAILS_BY_RICHNESS = ("low_rank", "sampled", "bucket")
MakeRule = Callable[[Any, float, Divergence], Rule]


@dataclass(frozen=True)
class Settings:
    """How a student is compared with soft targets; `soft_targets` says what each key means."""

    temperature: float = 1.0
    tail: str | None = None
    divergence: str = "forward_kl"
    beta: float = 0.5
    weigh_by: str | None = None


# One keyword a key of the recipe, so that the recipe's table can be passed as it is.
def soft_targets(  # noqa: PLR0913
    student_logits: Tensor,
    targets: Taught,
    *,
    temperature: float = 1.0,
    tail: str | None = None,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    weigh_by: str | None = None,
    count: Tensor | float | None = None,
) -> Tensor:
    """Pull the student's softened distribution towards the teacher's.

    The divergence of the two, summed over classes, averaged over positions (over `count`, if given)
    and scaled by temperature squared, so that gradients keep their size as the temperature changes.
    A student with more classes than the teacher, as of a padded vocabulary, learns to give them
    nothing. Of several teachers, a `Mixture`, it is pulled towards their average.

    `tail` says what stands for the left-out classes: "low_rank" their shape, scaled to their exact
    mass, "sampled" draws, "bucket" one class with that mass, "uniform" that mass spread evenly,
    "renormalise" nothing, the kept classes sum to 1, "none" nothing, the kept classes keep their
    own mass. Where every class was kept, all are the same. None is the richest that was kept:
    "low_rank", then "sampled", then "bucket".

    `divergence` is "forward_kl", KL(teacher || student), "reverse_kl", or "jensen_shannon", with
    `beta` as the teacher's weight in the mixture. `weigh_by` lets a position count as much as the
    teacher's "confidence", its largest probability, its "entropy", over log C, or what a table of
    pseudo-labels says, "pseudo_label".

    Shapes: student_logits (P, C) or wider; targets of P positions; returns ().
    Units:  nats, times temperature squared.
    Raises: TargetError if classes, positions, temperature, tail or divergence do not fit.
    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.
    """
    settings = Settings(temperature, tail, divergence, beta, weigh_by)
    term = _term(targets, count, settings)
    if student_logits.ndim != 2 or len(student_logits) != len(targets):
        raise _other_shape(student_logits, targets)
    return apply(term, student_logits)


def soft_targets_term(
    targets: Taught, count: Tensor | float | None = None, **settings: Any
) -> Term:
    """Make the loss of some targets, for logits that come later.

    Raises: TargetError if temperature, tail or divergence do not fit the targets.
    """
    return _term(targets, count, Settings(**settings))


def _term(targets: Taught, count: Tensor | float | None, chosen: Settings) -> Term:
    check_temperature(chosen.temperature, has_tail=targets.has_tail)
    rule, divergence = _rule(targets, chosen), DIVERGENCES[chosen.divergence](chosen.beta)
    few_at = _few(targets, chosen)
    make = partial(rule, targets, chosen.temperature, divergence)
    compare_common = _later(make) if few_at else make()
    weights = position_weights(targets, chosen.weigh_by)
    count = count_soft(targets, weigh_by=chosen.weigh_by) if count is None else count

    compare_wider = _of_wider(compare_common, targets.class_count, chosen.temperature)

    def compare(block: Block) -> Answer:
        width = block.logits.shape[1]
        if width < targets.class_count:
            raise _other_shape(block.logits, targets)
        answer = (compare_common if width == targets.class_count else compare_wider)(block)
        return answer if weights is None else answer.weighed(cut(weights, block.places))

    return Term(
        compare,
        share(count) * chosen.temperature**2,
        len(targets),
        chosen.temperature,
        overwrites=True,
        few_at=few_at,
    )


def _later(make: Callable[[], Rule]) -> Rule:
    """Prepare a rule when it is first needed, for often another is."""
    made = cache(make)
    return lambda block: made()(block)


def _few(targets: Taught, chosen: Settings) -> FewRuleAt | None:
    if chosen.divergence != "forward_kl" or chosen.weigh_by is not None:
        return None
    return few_targets(targets, chosen.temperature, chosen.tail or richest_tail(targets))


def _other_shape(student_logits: Tensor, targets: Taught) -> TargetError:
    return TargetError(
        f"soft_targets: the student's logits have shape {tuple(student_logits.shape)}; these "
        f"targets are {len(targets)} positions of {targets.class_count} classes. Give the student "
        "the teacher's classes, and join targets by position."
    )


def count_soft(targets: Taught, *, weigh_by: str | None = None, **_: Any) -> Tensor | int:
    """Count the positions that the loss averages over, each as much as it weighs."""
    weights = position_weights(targets, weigh_by)
    return len(targets) if weights is None else weights.sum()


def position_weights(targets: Taught, weigh_by: str | None) -> Tensor | None:
    """Weigh positions by what the teacher said of them, between 0 and 1. Shapes: returns (P,).

    Raises: TargetError if the targets came without their statistics.
    """
    if weigh_by is None:
        return None
    if weigh_by not in WEIGHTS:
        raise TargetError(_unknown("weigh_by", weigh_by, WEIGHTS))
    if weigh_by not in targets.statistics:
        raise TargetError(
            f"soft_targets: weigh_by '{weigh_by}' needs the teacher's {weigh_by} at each position; "
            f"these targets came without. Stream them with statistics, or leave weigh_by out."
        )
    weights = targets.statistics[weigh_by]
    return weights / math.log(targets.class_count) if weigh_by == "entropy" else weights


def _of_wider(compare_common: Rule, c: int, temperature: float) -> Rule:
    """Compare the C classes that both have; of the student's others, only their mass counts.

    The divergence of distributions over all of them is that over the common ones, among
    themselves, minus the log of the student's mass there: the teacher has all of its own there.
    """

    def compare(block: Block) -> Answer:
        logits = block.logits
        common, others = logits[:, :c] / temperature, logits[:, c:] / temperature
        outside = others.logsumexp(1) - common.logsumexp(1)
        lost, shares = outside.sigmoid()[:, None], common.softmax(1)
        answer = compare_common(Block(logits[:, :c], block.places))
        own = answer.derivative() - lost * shares
        gradient = torch.cat([own, lost * others.softmax(1)], 1)
        return Answer(answer.value + torch.nn.functional.softplus(outside), gradient)

    return in_blocks(compare)


def _rule(targets: Taught, chosen: Settings) -> MakeRule:
    tail = chosen.tail or richest_tail(targets)
    if tail not in RULES:
        raise TargetError(_unknown("tail", tail, RULES))
    if chosen.divergence not in DIVERGENCES:
        raise TargetError(_unknown("divergence", chosen.divergence, DIVERGENCES))
    if not 0 < chosen.beta < 1:
        raise TargetError(
            f"soft_targets: beta {chosen.beta:g} is out of range; it must be between 0 and 1, both "
            "left out. For either end use divergence = 'forward_kl' or 'reverse_kl'."
        )
    is_mixture = isinstance(targets, Mixture)
    if not targets.has_tail:
        return over_all if is_mixture else dense
    if problem := _missing(targets, tail):
        raise TargetError(f"soft_targets: tail '{tail}' {problem}")
    if chosen.divergence != "forward_kl" and tail in FORWARD_ONLY:
        raise TargetError(
            f"soft_targets: divergence '{chosen.divergence}' is not defined with tail '{tail}': "
            f"{FORWARD_ONLY[tail]}. Use forward_kl, or a cache with tail 'bucket' or 'low_rank'."
        )
    return MIXTURE_RULES[tail] if is_mixture else RULES[tail]


def richest_tail(targets: Taught) -> str:
    """Name the tail that says most of what was left out, of those that all teachers kept."""
    kept = (tail for tail in TAILS_BY_RICHNESS if not _missing(targets, tail))
    return next(kept, TAILS_BY_RICHNESS[-1])


def _missing(targets: Taught, tail: str) -> str:
    """Say what a tail needs that was not kept; nothing where it can be used."""
    if isinstance(targets, Mixture):
        return _missing_of_some(targets, tail)
    if tail == "low_rank" and targets.codes is None:
        return (
            "needs a cache that kept the tail's shape; this one kept its mass. Use tail = "
            "'bucket', or cache with targets.tail = { kind = 'low_rank' }."
        )
    if tail == "sampled" and targets.drawn is None:
        return (
            "needs a cache of draws; this one has none. Use tail = 'bucket', or cache with a "
            "selection of kind 'sampled' or 'hybrid'."
        )
    if tail != "sampled" and not targets.logits.shape[1]:
        return "needs classes that were kept; this cache holds draws alone. Use tail = 'sampled'."
    return ""


def _missing_of_some(mixture: Mixture, tail: str) -> str:
    """Say what a tail needs that one of several teachers did not keep."""
    found = [
        (number, _missing(targets, tail))
        for number, targets in enumerate(mixture.members, 1)
        if targets.has_tail
    ]
    lacking = [(number, problem) for number, problem in found if problem]
    if not lacking:
        return ""
    number, problem = lacking[0]
    return f"cannot be had of teacher {number} of {len(mixture.members)}: it {problem}"


def _unknown(key: str, value: str, allowed: Iterable[str]) -> str:
    return f"soft_targets: {key} {value!r} is unknown; use one of {', '.join(sorted(allowed))}."
