"""The teacher's distribution at a temperature, from what was kept of it.

Knows what Targets hold; not where they came from, nor what a student is asked to do with them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import TargetError, see
from pipeline.targets.kept import Targets
from pipeline.targets.low_rank.basis import shape_logits
from pipeline.targets.tail import tail_weights

# Of fewer classes a further exp costs less than an operation that nothing else in a step needs.
FEW_CLASSES = 256
# Of many classes those that are looked at where a few will do, and from where on a probability has
# its full precision.
PROBED, FAINT = 64, 1e-30
# How far below another a logit is as good as nothing, in nats: 2e-22 of it.
NOTHING = 50.0
# Logits that operations look at in turn: 4 MiB stay in the caches of two cores from one to the
# next, and asking for the operations is not yet what takes the time.
BLOCK_ELEMENTS = {"cpu": 2**20}


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
    if targets.tail is None:
        logits = targets.logits / temperature  # (P, K)
        return Soft(logits - logits.exp().sum(1).log()[:, None], None)
    return _normalise(targets, temperature, log_tail_sum(targets, temperature))


def _normalise(targets: Targets, temperature: float, log_tail: Tensor) -> Soft:
    # The largest logit is 0, so a sum of powers is between 1 and C; no softmax is needed.
    logits = targets.logits / temperature  # (P, K)
    log_total = (logits.exp().sum(1) + log_tail.exp()).log()  # (P,)
    return Soft(logits - log_total[:, None], log_tail - log_total)


def log_tail_sum(targets: Targets, temperature: float) -> Tensor:
    """Compute K(1/T): the log of the sum of exp(x / T) over the left-out classes.

    Shapes: returns (P,).
    Units:  nats.
    Source: pipeline/store/FORMAT.md, the tail.
    """
    assert targets.tail is not None
    if targets.has_mass_alone:
        if temperature == 1.0:
            return targets.tail[:, 0]
        return left_out_logits(targets).div_(temperature).logsumexp(1)
    if 1 / temperature in targets.nodes:  # nothing to interpolate
        return targets.tail[:, targets.nodes.index(1 / temperature)]
    known, stored = tail_weights(targets.nodes, temperature)
    # Not a matrix product: autocast would take that in bfloat16.
    log_tail = (targets.tail * constants(stored, targets.tail)).sum(1)  # (P,)
    left_out = targets.left_out_count
    if isinstance(left_out, Tensor):
        return log_tail.add_(left_out.log(), alpha=known)
    return log_tail.add_(known * math.log(left_out))


def low_rank_logits(targets: Targets, temperature: float) -> Tensor:
    """Rebuild the teacher's softened logits of all classes, up to a number of each position's own.

    Kept classes are as they were kept; the left-out ones have the shape of the low-rank tail and
    its exact mass, at the temperatures at which it was kept.

    Shapes: returns (P, C).
    """
    return low_rank_probs(targets, temperature)[1]


class Shaped(NamedTuple):
    """A softened distribution over all classes whose left-out ones were rebuilt: of these their
    probabilities among themselves, and logits that are up to `log_sums` their logarithms; of the
    kept ones, which are next to nothing there, and of the tail what `soft` says.

    Shapes: probs and logits (P, C), log_sums (P, 1).
    """

    probs: Tensor
    logits: Tensor
    log_sums: Tensor
    soft: Soft


def rebuild_tail(targets: Targets, temperature: float) -> Shaped:
    """Rebuild what was left out: one exp a class, or two where the mass at this temperature follows
    from that at 1.
    """
    assert targets.classes is not None
    missing = None
    if targets.has_mass_alone and temperature != 1:
        logits = leave_out(_shape(targets), targets.classes, temperature)
        missing = (log_tail_sum(targets, 1.0) - logits.logsumexp(1)) / temperature
        logits.div_(temperature)
    else:
        logits = leave_out(_shape(targets, temperature), targets.classes)
    probs = logits.softmax(1)
    sums = log_sums_of(logits, probs)
    log_tail = log_tail_sum(targets, temperature) if missing is None else sums[:, 0] + missing
    return Shaped(probs, logits, sums, _normalise(targets, temperature, log_tail))


def low_rank_probs(targets: Targets, temperature: float) -> tuple[Tensor, Tensor]:
    """Give the probabilities of all classes, of which `low_rank_logits` are the logits, and their
    logarithms.

    Shapes: returns (P, C) and (P, C).
    """
    assert targets.classes is not None
    probs, logits, log_sums, soft = rebuild_tail(targets, temperature)
    assert soft.log_tail is not None
    log_kept = _at_their_places(targets, soft.log_probs)
    probs.mul_(soft.log_tail.exp()[:, None]).scatter_(1, targets.classes, log_kept.exp())
    log_probs = logits.add_(soft.log_tail[:, None] - log_sums)
    return probs, log_probs.scatter_(1, targets.classes, log_kept)


def leave_out(logits: Tensor, classes: Tensor, temperature: float = 1.0) -> Tensor:
    """Give some classes next to nothing, in place: among one more than these is one of the others,
    of which none is above the largest. Minus infinity would take a CPU 25 times as long as other
    exps.

    Shapes: logits (P, C), before they are divided by the temperature; classes (P, K).
    """
    least = logits[:, : classes.shape[1] + 1].amin(1, keepdim=True)
    return logits.scatter_(1, classes, (least - NOTHING * temperature).expand(classes.shape))


class Exps(NamedTuple):
    """What a softmax is made of: divided by `sums`, or as they are where there are none, `exps` are
    probabilities; `log_sums` are the logarithms of the sums of exp(logits / T).

    Shapes: exps (P, C), sums and log_sums (P, 1).
    """

    exps: Tensor
    sums: Tensor | None
    log_sums: Tensor


def make_exps(
    logits: Tensor,
    temperature: float = 1.0,
    *,
    overwrite: bool = False,
    largest: Tensor | None = None,
) -> Exps:
    """Go through many classes four times, where dividing, a softmax and its logarithm would take
    seven; dividing by sums can wait for the pass in which something else is done.

    Shapes: logits (P, C), finite but for minus infinity, which may be told to be overwritten;
        largest (P, 1), what none is above and the largest is not far below, if that is known.
    """
    if logits.shape[1] < FEW_CLASSES:
        divided, log_probs = _log_softmax(logits, temperature)
        log_sums = divided.amax(1, keepdim=True).sub_(log_probs.amax(1, keepdim=True))
        return Exps(log_probs.exp_(), None, log_sums)
    parts = blocks_of(logits)
    if len(parts) < 2:  # a slice of everything takes time, too
        return Exps(*_exps_of(logits, temperature, largest, out=logits if overwrite else None))
    exps = logits if overwrite else torch.empty_like(logits)
    found = [
        _exps_of(
            logits[rows], temperature, None if largest is None else largest[rows], out=exps[rows]
        )
        for rows in parts
    ]
    sums, log_sums = (torch.cat(each) for each in list(zip(*found, strict=True))[1:])
    return Exps(exps, sums, log_sums)


def blocks_of(logits: Tensor) -> list[slice]:
    """Cut positions so that a core's cache keeps their logits from one pass to the next.

    Shapes: logits (P, C).
    """
    whole = logits.numel()
    step = max(1, BLOCK_ELEMENTS.get(logits.device.type, whole) // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]


def normalise(
    logits: Tensor, temperature: float = 1.0, *, overwrite: bool = False
) -> tuple[Tensor, Tensor]:
    """Give probabilities at a temperature, and their logarithms.

    Shapes: logits as for exps; returns (P, C) twice.
    """
    if logits.shape[1] < FEW_CLASSES:
        _, log_probs = _log_softmax(logits, temperature)
        return log_probs.exp(), log_probs
    divided = logits
    if temperature != 1 or not overwrite:
        divided = torch.div(logits, temperature, out=logits if overwrite else None)
    probs = divided.softmax(1)
    return probs, divided.sub_(log_sums_of(divided, probs))


def _log_softmax(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    divided = logits if temperature == 1 else logits / temperature
    return divided, divided.log_softmax(1)


def log_sums_of(logits: Tensor, probs: Tensor) -> Tensor:
    """Find the logarithms of what exps were divided by: they follow from any class that is not too
    unlikely, so from the likeliest of a few, or of all, for which all would be passed over twice.

    Shapes: logits and probs (P, C); returns (P, 1).
    """
    if len(logits) and logits.device.type == "cpu":  # a GPU would be waited for
        likeliest, at = logits[:, :PROBED].max(1, keepdim=True)
        share = probs.gather(1, at)
        if float(share.min()) > FAINT:
            return likeliest - share.log_()
    return logits.amax(1, keepdim=True) - probs.amax(1, keepdim=True).log_()


def _exps_of(
    logits: Tensor, temperature: float, largest: Tensor | None, *, out: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Go through some logits: divide and subtract what is then largest, in one pass; exps; sums.

    Shapes: logits and out (p, C), largest (p, 1); returns as Exps.
    """
    most = logits.amax(1, keepdim=True) if largest is None else largest
    if temperature == 1:
        exps = torch.sub(logits, most, out=out).exp_()
    else:
        most = most / temperature
        exps = torch.add(-most, logits, alpha=1 / temperature, out=out).exp_()
    sums = exps.sum(1, keepdim=True)
    return exps, sums, sums.log().add_(most)


def left_out_logits(targets: Targets) -> Tensor:
    """Rebuild the logits of what was left out, relative to the largest as kept ones are.

    Together they have the tail's exact mass at T = 1.

    Shapes: returns (P, C), minus infinity for kept classes.
    """
    assert targets.tail is not None
    assert targets.classes is not None
    logits = _shape(targets).scatter_(1, targets.classes, -math.inf)
    return logits.add_((targets.tail[:, 0] - logits.logsumexp(1))[:, None])


def _shape(targets: Targets, temperature: float = 1.0) -> Tensor:
    if targets.basis is None or targets.codes is None:
        raise TargetError(
            "targets: keep of their tail its shape, and its mass at T = 1 alone; decode them with "
            "the basis that their cache shares to have it at another temperature."
        )
    return shape_logits(targets.basis, targets.codes, temperature)


def uniform_logits(targets: Targets, temperature: float) -> Tensor:
    """Spread the tail's mass evenly, as `low_rank_logits` gives it a shape. Shapes: (P, C)."""
    assert targets.classes is not None
    left_out = torch.as_tensor(targets.left_out_count, dtype=torch.float64)
    log_tail = log_tail_sum(targets, temperature)
    each = log_tail - left_out.log().to(log_tail.dtype)
    logits = each[:, None].repeat(1, targets.class_count)
    kept = _at_their_places(targets, targets.logits / temperature)
    return logits.scatter_(1, targets.classes, kept.to(each))


def _at_their_places(targets: Targets, kept: Tensor) -> Tensor:
    """Give spare places what the class that they repeat has. Shapes: kept and returns (P, K)."""
    spare = targets.is_spare
    return kept if spare is None else kept.where(~spare, kept[:, :1])


def weigh_draws(targets: Targets, temperature: float) -> tuple[Tensor, Tensor]:
    """Weigh the drawn classes so that their sum is, on average, the left-out distribution.

    A draw counts as the tail's mass over the number of draws; at another temperature than it was
    drawn at, times the ratio of the class's two probabilities among the left-out. The weights are
    never normalised: that would be biased.

    Shapes: returns the weights and log-probs of the drawn classes, (P, D).
    Source: Anshumann et al. 2025, arXiv:2503.16870, section 3; importance sampling.
    """
    assert targets.drawn_logits is not None
    proposal = targets.proposal_temperature
    log_tail = log_tail_sum(targets, temperature)  # (P,)
    total = (targets.logits / temperature).exp().sum(1) + log_tail.exp()
    log_probs = targets.drawn_logits / temperature - total.log()[:, None]
    log_proposed = targets.drawn_logits / proposal - log_tail_sum(targets, proposal)[:, None]
    weights = (log_probs - log_proposed).exp() / log_probs.shape[1]
    return weights, log_probs


def constants(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    """Make a tensor of numbers, once for each device and dtype. Shapes: returns (numbers,)."""
    return _made_constants(numbers, like.dtype, like.device)


@lru_cache(maxsize=64)
def _made_constants(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Made outside inference mode, for a tensor that was made inside cannot be used in training.
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)


def one_hot(class_count: int, like: Tensor) -> Tensor:
    """Make a row for each class that is certain of it, once for each device and dtype.

    Shapes: returns (C, C).
    """
    return _made_one_hot(class_count, like.dtype, like.device)


@lru_cache(maxsize=16)
def _made_one_hot(class_count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.eye(class_count, dtype=dtype, device=device)


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
        error = TargetError(
            f"targets: temperature {temperature:g} cannot be served; these targets allow {lowest}. "
            "Choose another temperature, or cache all classes."
        )
        raise see(error, "choosing.md#temperature")
