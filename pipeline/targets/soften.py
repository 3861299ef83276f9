"""The teacher's distribution at a temperature, from what was kept of it.

Knows what Targets hold; not where they came from, nor what a student is asked to do with them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.targets.kept import Targets
from pipeline.targets.low_rank import shape_logits
from pipeline.targets.tail import tail_weights


@dataclass(frozen=True)
class Soft:
    """A softened distribution: the kept classes' log-probs and the tail's log-mass.

    `log_tail` is None where every class was kept.

    Shapes: log_probs (P, K), log_tail (P,).
    Units:  nats.
    """

    log_probs: Tensor
    log_tail: Tensor | None


def soften(targets: Targets, temperature: float) -> Soft:
    """Divide the teacher's logits by the temperature and normalise over all classes.

    The tail's mass is exact at the stored temperatures and interpolated at others.

    Shapes: returns log_probs (P, K) and log_tail (P,).
    Units:  nats.
    Raises: TargetError if the temperature is not above 0, or below 1 where a tail was left out.
    Source: pipeline/store/FORMAT.md, the tail.
    """
    check_temperature(temperature, has_tail=targets.tail is not None)
    # The largest logit is 0, so a sum of powers is between 1 and C; no softmax is needed.
    logits = targets.logits / temperature  # (P, K)
    total = logits.exp().sum(1)  # (P,)
    if targets.tail is None:
        return Soft(logits - total.log()[:, None], None)
    log_tail = log_tail_sum(targets, temperature)
    log_total = (total + log_tail.exp()).log()
    return Soft(logits - log_total[:, None], log_tail - log_total)


def log_tail_sum(targets: Targets, temperature: float) -> Tensor:
    """Compute K(1/T): the log of the sum of exp(x / T) over the left-out classes.

    Shapes: returns (P,).
    Units:  nats.
    Source: pipeline/store/FORMAT.md, the tail.
    """
    assert targets.tail is not None
    known, stored = tail_weights(targets.nodes, temperature)
    # Not a matrix product: autocast would take that in bfloat16.
    log_tail = (targets.tail * _constants(stored, targets.tail)).sum(1)  # (P,)
    return log_tail.add_(known * math.log(targets.left_out_count))


def low_rank_logits(targets: Targets, temperature: float) -> Tensor:
    """Rebuild the teacher's softened logits of all classes, up to a number of each position's own.

    Kept classes are as they were kept; the left-out ones have the shape of the low-rank tail and
    its exact mass.

    Shapes: returns (P, C).
    """
    assert targets.basis is not None
    assert targets.codes is not None
    assert targets.classes is not None
    logits = shape_logits(targets.basis, targets.codes).div_(temperature)
    logits.scatter_(1, targets.classes, -math.inf)
    log_tail = log_tail_sum(targets, temperature)
    logits.add_((log_tail - logits.logsumexp(1))[:, None])
    return logits.scatter_(1, targets.classes, targets.logits / temperature)


def _constants(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    """Make a tensor of numbers, once for each device and dtype."""
    return _made_constants(numbers, like.dtype, like.device)


@lru_cache(maxsize=64)
def _made_constants(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Made outside inference mode, for a tensor that was made inside cannot be used in training.
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)


def kept_mass(targets: Targets, temperature: float) -> Tensor:
    """Measure the probability that the kept classes cover. Shapes: returns (P,)."""
    return soften(targets, temperature).log_probs.exp().sum(1)


def tail_mass(targets: Targets, temperature: float) -> Tensor:
    """Measure the probability of the left-out classes together. Shapes: returns (P,)."""
    log_tail = soften(targets, temperature).log_tail
    return targets.logits.new_zeros(len(targets)) if log_tail is None else log_tail.exp()


def check_temperature(temperature: float, *, has_tail: bool) -> None:
    """Refuse a temperature at which the tail is not known.

    Raises: TargetError with what is allowed.
    """
    lowest = "1 or above, as classes were left out" if has_tail else "above 0"
    in_range = temperature >= 1 if has_tail else temperature > 0
    if not in_range or temperature == math.inf:
        raise TargetError(
            f"targets: temperature {temperature:g} cannot be served; these targets allow {lowest}. "
            "Choose another temperature, or cache all classes."
        )
