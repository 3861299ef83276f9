"""The classes that several teachers kept, as one list, and what together they say of these.

Of a class that a teacher left out it has a share of that teacher's tail, and the tail has so much
less: nothing is counted twice or lost. All sums are of logarithms, so that none underflows.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.targets.kept import Targets
from pipeline.targets.mixtures.average import fill_in, log_average
from pipeline.targets.mixtures.mixture import Mixture
from pipeline.targets.rounding import LOWEST_LOGIT
from pipeline.targets.soften import soften


@dataclass(frozen=True)
class Merged:
    """A softened distribution over the classes that any teacher kept, and their common tail.

    Where positions have fewer such classes than there are places, the spare ones repeat the first
    class, without mass.

    Shapes: classes (P, U), int64; log_probs and is_spare (P, U); log_tail (P,).
    Units:  nats.
    """

    classes: Tensor
    log_probs: Tensor
    is_spare: Tensor
    log_tail: Tensor


@dataclass(frozen=True)
class _Union:
    """The kept classes of all teachers in ascending order, each once; the spare places at the end.

    `places` say of each teacher where its classes are.

    Shapes: classes (P, E); places (P, K) each; count (P,), of classes that are not spare.
    """

    classes: Tensor
    places: tuple[Tensor, ...]
    count: Tensor

    @property
    def is_spare(self) -> Tensor:
        places = torch.arange(self.classes.shape[1], device=self.classes.device)
        return places >= self.count[:, None]


def merge(mixture: Mixture, temperature: float) -> Merged:
    """Average the teachers' distributions over the classes that any of them kept and their tail.

    Every teacher left classes out. One that kept the shape of its tail shares it out by that shape,
    the others evenly.
    """
    union, class_count = _unite(mixture), mixture.class_count
    outside = class_count - union.count
    parts = [
        _share_out(targets, places, union, outside, temperature)
        for targets, places in zip(mixture.members, union.places, strict=True)
    ]
    log_probs = log_average([of_union for of_union, _ in parts], mixture.weights)
    log_tail = log_average([of_rest for _, of_rest in parts], mixture.weights)
    log_probs.masked_fill_(union.is_spare, LOWEST_LOGIT)
    if union.classes.shape[1] < class_count:
        return Merged(union.classes, log_probs, union.is_spare, log_tail)
    # Where no class is left for the tail, the last one is it: a tail of one class says as much.
    last = class_count - 1
    log_tail = torch.where(outside == 0, log_probs[:, last], log_tail)
    kept = slice(0, last)
    return Merged(union.classes[:, kept], log_probs[:, kept], union.is_spare[:, kept], log_tail)


def merge_kept(mixture: Mixture, temperature: float, *, renormalise: bool) -> tuple[Tensor, Tensor]:
    """Average what the teachers kept, without a share of what they left out.

    `renormalise` makes each of them sum to 1 first. Spare places have no mass.

    Shapes: returns classes and log-probs, (P, U).
    """
    union, each = _unite(mixture), []
    for targets, places in zip(mixture.members, union.places, strict=True):
        log_probs = soften(targets, temperature).log_probs
        log_probs = log_probs.log_softmax(1) if renormalise else log_probs
        nothing = log_probs.new_full(union.classes.shape, LOWEST_LOGIT)
        each.append(nothing.scatter_(1, places, _at_their_places(targets, log_probs)))
    return union.classes, log_average(each, mixture.weights)


def _unite(mixture: Mixture) -> _Union:
    kept = [_classes(targets) for targets in mixture.members]
    listed = torch.cat(kept, 1)  # (P, E)
    ordered, order = listed.sort(1)
    is_new = torch.ones_like(ordered)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rank = is_new.cumsum(1) - 1  # (P, E), among the different ones
    places = torch.empty_like(order).scatter_(1, order, rank)
    width = min(listed.shape[1], mixture.class_count)
    classes = ordered[:, :1].repeat(1, width).scatter_(1, rank, ordered)  # (P, U)
    sizes = [each.shape[1] for each in kept]
    return _Union(classes, torch.split(places, sizes, 1), rank[:, -1] + 1)


def _classes(targets: Targets) -> Tensor:
    if targets.classes is not None:
        return targets.classes
    everything = torch.arange(targets.class_count, device=targets.logits.device)
    return everything.expand(len(targets), -1)


def _share_out(
    targets: Targets, places: Tensor, union: _Union, outside: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Give one teacher's log-probs of the union's classes, and the log-mass of all others.

    Shapes: places (P, K), outside (P,); returns (P, U) and (P,).
    """
    if targets.codes is not None:
        filled = fill_in(targets, temperature)
        of_union = filled.gather(1, union.classes)
        return of_union, filled.scatter_(1, union.classes, -math.inf).logsumexp(1)
    soft = soften(targets, temperature)
    assert soft.log_tail is not None
    left_out = torch.as_tensor(targets.left_out_count).to(soft.log_tail)
    share = soft.log_tail - left_out.log()  # (P,)
    shares = share[:, None].repeat(1, union.classes.shape[1])
    of_union = shares.scatter_(1, places, _at_their_places(targets, soft.log_probs))
    return of_union, share + outside.to(share).log()


def _at_their_places(targets: Targets, log_probs: Tensor) -> Tensor:
    """Give spare places the value of the class that they repeat. Shapes: (P, K)."""
    spare = targets.is_spare
    return log_probs if spare is None else log_probs.where(~spare, log_probs[:, :1])
