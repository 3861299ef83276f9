"""What a student says of one batch against all it is asked to match: a weighted sum of losses.

Knows a batch, an output and weighted losses; neither steps nor optimisers.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.compute import Ranks, tell_later
from pipeline.losses import LOSSES, Loss, Term, fused_losses, joined_losses
from pipeline.losses.average import share
from pipeline.losses.settings import name_losses, settings_of
from pipeline.models import Output, split_output
from pipeline.stream import Batch, Blended, Picked
from pipeline.training.related import AllRelated, Related, relate
from pipeline.training.roots import Root

AnyBatch = Batch | Blended


@dataclass(frozen=True)
class WeightedLoss:
    """One entry of a recipe's losses; `name` is what metrics call it.

    `feature` is the teacher's that it compares; the student's has the loss's name. A hint may be
    for the first steps alone.
    """

    name: str
    loss: Loss
    weight: float
    settings: Mapping[str, Any]
    feature: str | None = None
    first_steps: int | None = None

    @cached_property
    def key(self) -> Hashable:
        """Under which what it makes of a whole window is kept."""
        return self.loss.term, *sorted(self.settings.items())


# A loss, what it compares with, and over how many positions it is averaged.
Asked = tuple[WeightedLoss, Any, float]


class Told(NamedTuple):
    """A loss as people are told of it, or a part of it: a number that a device may have yet to
    compute, without a graph, times a factor. Shapes: number ().
    """

    number: Tensor | float
    factor: Tensor | float = 1.0


# The roots of each sum of losses that is learned from, and each loss as it is, without its weight.
Sums = tuple[list[list[Root]], list[list[Told]]]


def weigh(entries: Sequence[Mapping[str, Any]]) -> list[WeightedLoss]:
    """Look up a recipe's losses, those of features last; a kind that occurs twice is numbered."""
    names = name_losses([entry["kind"] for entry in entries])
    weighted = [
        WeightedLoss(
            name=name,
            loss=LOSSES[entry["kind"]],
            weight=entry["weight"],
            settings=settings_of(entry),
            feature=entry.get("feature"),
            first_steps=entry.get("first_steps"),
        )
        for name, entry in zip(names, entries, strict=True)
    ]
    return sorted(weighted, key=lambda each: each.loss.needs == "features")


def count_positions(losses: Sequence[WeightedLoss], batches: Sequence[AnyBatch]) -> list[float]:
    """Count over how many positions of some batches each loss is averaged."""
    pieces = [piece for batch in batches for piece in _pieces(batch)]
    return [sum(_count(piece, each) for piece in pieces) for each in losses]


def _pieces(batch: AnyBatch) -> tuple[Batch, ...]:
    return batch.batches if isinstance(batch, Blended) else (batch,)


def _count(batch: Batch, loss: WeightedLoss) -> float:
    # In host memory and unwidened, so that nothing waits for a device.
    reference = batch.known if loss.loss.needs == "targets" else _reference(batch, loss)
    return 0.0 if reference is None else float(loss.loss.count(reference, **loss.settings))


def relate_batch(
    output: Output | None, batch: AnyBatch, losses: Sequence[WeightedLoss], ranks: Ranks
) -> list[AllRelated]:
    """Gather from all ranks what losses between samples compare, for each piece of a batch.

    All ranks must call it; one without rows of the batch has no output.
    """
    between = [each for each in losses if each.loss.is_between_samples]
    pieces = _pieces(batch)
    if ranks.size == 1 or not between:
        return [{} for _ in pieces]
    outputs: list[Output | None] = [None] * len(pieces)
    if output is not None:
        outputs = list(split_output(output, [piece.row_count for piece in pieces]))
    found = []
    for own, piece in zip(outputs, pieces, strict=True):
        named = [(each.name, _reference(piece, each)) for each in between]
        known = [(name, theirs) for name, theirs in named if theirs is not None]
        found.append(relate(own if piece.row_count else None, known, ranks))
    return found


def match(
    output: Output,
    batch: AnyBatch,
    losses: Sequence[WeightedLoss],
    counts: Sequence[float],
    *,
    apart: bool = False,
    related: Sequence[AllRelated] = ({},),
) -> Sums:
    """Compare an output with all that its batch says; with `apart` every loss has a sum of its own.

    Losses of logits share one where logits are made in chunks, value and gradient in one pass. A
    batch of several datasets is compared with what is known of each. `related` is what several
    ranks have gathered of each.
    """
    if isinstance(batch, Blended):
        return _match_blended(output, batch, losses, counts, apart=apart, related=related)
    there = batch.compared_on(output.positions.device)
    asked = [
        (each, _reference(there, each), count) for each, count in zip(losses, counts, strict=True)
    ]
    of_logits = [each for each in asked if each[0].loss.needs != "features"]
    groups = [[each] for each in of_logits] if apart else [of_logits] if of_logits else []
    found = [_match_logits(output, group) for group in groups]
    found += [_match_feature(output, each, related[0]) for each in asked[len(of_logits) :]]
    return [roots for roots, _ in found], [[each] for _, told in found for each in told]


def _match_blended(
    output: Output,
    blended: Blended,
    losses: Sequence[WeightedLoss],
    counts: Sequence[float],
    *,
    apart: bool,
    related: Sequence[AllRelated],
) -> Sums:
    """Let each dataset be compared by the losses that have something to compare there."""
    pieces = split_output(output, [batch.row_count for batch in blended.batches])
    values: list[list[Told]] = [[] for _ in losses]
    sums = list[list[Root]]()
    for group in [[place] for place in range(len(losses))] if apart else [range(len(losses))]:
        found = list[Root]()  # none where nothing is compared
        for number, (own, batch) in enumerate(zip(pieces, blended.batches, strict=True)):
            here = [place for place in group if _count(batch, losses[place])]
            if here:
                totals, terms = match(
                    own,
                    batch,
                    [losses[place] for place in here],
                    [counts[place] for place in here],
                    related=related[number : number + 1] or ({},),
                )
                found += [root for roots in totals for root in roots]
                for place, told in zip(here, terms, strict=True):
                    values[place] += told
        sums.append(found)
    return sums, values


def tell(values: Sequence[Sequence[Told]]) -> Callable[[], list[float]]:
    """Ask for losses, each of which is a sum of parts; what is returned waits for them."""
    ask = tell_later([part.number for parts in values for part in parts])

    def told() -> list[float]:
        numbers = iter(ask())
        return [sum(next(numbers) * float(part.factor) for part in parts) for parts in values]

    return told


def _match_logits(output: Output, asked: Sequence[Asked]) -> tuple[list[Root], list[Told]]:
    (each, reference, count), *others = asked
    if each.loss.native and not others and output.layer is None:
        total, factor = each.loss.native(output.logits, reference), share(count)
        return [Root(total, each.weight * factor)], [Told(total.detach(), factor)]
    terms = [(each.weight, _term(each, reference, count)) for each, reference, count in asked]
    if output.layer is None:
        sums: Sequence[Tensor | float]
        sums, derivatives = joined_losses(output.logits, terms)
    else:  # logits of many classes are never all there
        sums, derivatives = fused_losses(output.states, output.layer, terms)
    told = [Told(each, term.factor) for each, (_, term) in zip(sums, terms, strict=True)]
    return [Root(*each) for each in derivatives], told


def _term(loss: WeightedLoss, reference: Any, count: float) -> Term:
    make, settings = loss.loss.term, loss.settings
    assert make, "a loss of features is not applied to logits"
    if isinstance(reference, Picked):
        of_window = reference.derive(loss.key, lambda targets: make(targets, 1.0, **settings))
        return of_window.at(reference.at, count)
    return make(reference, count, **settings)


def _match_feature(
    output: Output, asked: Asked, related: AllRelated
) -> tuple[list[Root], list[Told]]:
    loss, reference, count = asked
    alone = Related(output.features[loss.name], reference, 1.0)
    found = related.get(loss.name, alone)
    own = found.own if loss.weight else found.own.detach()  # or its projection would decay
    # Autocast is for the student: small differences of features would be lost.
    with torch.autocast(own.device.type, enabled=False):
        term = loss.loss.function(own, found.theirs, count=count, **loss.settings)
    return [Root(term, loss.weight)], [Told(term.detach(), found.share)]


def _reference(batch: Batch, loss: WeightedLoss) -> Any:
    found = getattr(batch, _ATTRIBUTES[loss.loss.needs])
    return found if loss.feature is None else found.get(loss.feature)


# What of a batch the losses that need something are given.
_ATTRIBUTES = {
    "targets": "to_match",
    "labels": "labels_to_match",
    "pseudo_labels": "pseudo_labels_to_match",
    "features": "features",
}
