"""Sums over positions of a cache, which add up over its parts: what a page shows of it.

Targets and labels in, counts out. What is counted of single classes is counted of those that are
shown, so a vocabulary costs no more than a hundred classes. Knows neither files nor names.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pipeline.metrics import CALIBRATION_BINS, UNLABELLED, bin_confidence
from pipeline.report.shares import class_shares, places_of
from pipeline.targets import Targets, TargetSpec, kept_mass

MASS_TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
MASS_BINS, CONFIDENCE_BINS, ENTROPY_BINS = 20, 20, 40
# Of each class: positions whose first choice it is and the confidence there, labels, right ones.
CHOSEN, CONFIDENCE, LABELLED, RIGHT = range(4)


@dataclass(frozen=True)
class Frame:
    """What is counted: `classes` one by one, the first `matrix` of them against each other.

    These are compared at a temperature. What takes the logits of every class is counted of every
    `every`-th position of a part.

    Shapes: classes (S,), the most frequent first choices first.
    """

    spec: TargetSpec
    classes: Tensor
    matrix: int
    temperature: float = 1.0
    every: int = 1

    @property
    def keeps_some(self) -> bool:
        """Whether a position keeps some classes and leaves some out."""
        return self.spec.has_tail and self.spec.kind != "sampled"

    @property
    def highest_entropy(self) -> float:
        """That of an even spread over all classes, in nats."""
        return math.log(max(2, self.spec.class_count))


@dataclass(frozen=True)
class Counts:
    """Sums over positions; those of other positions are added with `+`.

    A row of `soft` is of positions with one first choice: the softened probability of each class of
    the matrix, added up. `best` is the largest that one position of the row gives, `part` and
    `position` say where that is.

    Shapes: mass_sum (4,), masses (4, 20), mass_count (4,); entropies (40,), confidences (20,);
        reliability (3, 15), as in `bin_confidence`; classes (4, S + 1), the last all others;
        soft, best, part and position (A, A), soft_count (A,).
    """

    positions: int
    mass_sum: Tensor
    mass_count: Tensor
    masses: Tensor
    entropy_sum: float
    entropies: Tensor
    confidence_sum: float
    confidences: Tensor
    reliability: Tensor
    classes: Tensor
    soft: Tensor
    soft_count: Tensor
    best: Tensor
    part: Tensor
    position: Tensor

    def __add__(self, other: "Counts") -> "Counts":
        is_better = other.best > self.best
        where: dict[str, Any] = {
            name: torch.where(is_better, getattr(other, name), getattr(self, name))
            for name in _WHERE
        }
        sums: dict[str, Any] = {
            each.name: getattr(self, each.name) + getattr(other, each.name)
            for each in fields(self)
            if each.name not in _WHERE
        }
        return Counts(**sums, **where)

    @property
    def labelled(self) -> int:
        """How many positions have a label."""
        return int(self.classes[LABELLED].sum())


_WHERE = ("best", "part", "position")


def count_nothing(frame: Frame) -> Counts:
    """Give what other counts are added to."""
    temperatures, matrix = len(MASS_TEMPERATURES), frame.matrix
    square = torch.zeros(matrix, matrix, dtype=torch.float64)
    return Counts(
        positions=0,
        mass_sum=torch.zeros(temperatures, dtype=torch.float64),
        mass_count=torch.zeros(temperatures, dtype=torch.int64),
        masses=torch.zeros(temperatures, MASS_BINS, dtype=torch.int64),
        entropy_sum=0.0,
        entropies=torch.zeros(ENTROPY_BINS, dtype=torch.int64),
        confidence_sum=0.0,
        confidences=torch.zeros(CONFIDENCE_BINS, dtype=torch.int64),
        reliability=torch.zeros(3, CALIBRATION_BINS, dtype=torch.float64),
        classes=torch.zeros(4, len(frame.classes) + 1, dtype=torch.float64),
        soft=square,
        soft_count=torch.zeros(matrix, dtype=torch.int64),
        best=torch.full_like(square, -1.0),
        part=torch.full_like(square, -1, dtype=torch.int64),
        position=torch.full_like(square, -1, dtype=torch.int64),
    )


def count(frame: Frame, targets: Targets, labels: Tensor, *, part: int, start: int) -> Counts:
    """Count positions that follow one another, the first of them number `start` of its part.

    Shapes: targets of P positions, labels (P,), -1 for none.
    """
    first, sure = targets.top_classes(), targets.statistics["confidence"].double()
    entropy = targets.statistics["entropy"].double()
    known, right = labels != UNLABELLED, labels == first
    return Counts(
        positions=len(targets),
        entropy_sum=float(entropy.sum()),
        entropies=_histogram(entropy / frame.highest_entropy, ENTROPY_BINS),
        confidence_sum=float(sure.sum()),
        confidences=_histogram(sure, CONFIDENCE_BINS),
        reliability=bin_confidence(sure[known], right[known]),
        classes=_count_classes(frame, first, sure, labels),
        **_count_masses(frame, targets, start),
        **_count_soft(frame, targets, first, part, start),
    )


def _histogram(values: Tensor, bins: int) -> Tensor:
    """Count values from 0 to 1 in equal bins; what rounding put outside is in the outermost."""
    places = (values * bins).long().clamp_(0, bins - 1)
    return torch.bincount(places, minlength=bins)


def _count_classes(frame: Frame, first: Tensor, sure: Tensor, labels: Tensor) -> Tensor:
    """Shapes: all (P,); returns (4, S + 1)."""
    place = places_of(frame.spec.class_count, frame.classes)
    known = labels != UNLABELLED
    true = place[labels[known]]
    sums = torch.zeros(4, len(frame.classes) + 1, dtype=torch.float64)
    ones = torch.ones(len(first), dtype=torch.float64)
    sums[CHOSEN].index_add_(0, place[first], ones)
    sums[CONFIDENCE].index_add_(0, place[first], sure)
    sums[LABELLED].index_add_(0, true, ones[: len(true)])
    sums[RIGHT].index_add_(0, true, (first == labels)[known].double())
    return sums


def _count_masses(frame: Frame, targets: Targets, start: int) -> dict[str, Any]:
    nothing = count_nothing(frame)
    found = {name: getattr(nothing, name) for name in ("mass_sum", "mass_count", "masses")}
    if not frame.keeps_some:
        return found
    some = _every(targets, frame.every, start) if targets.has_mass_alone else targets
    for place, temperature in enumerate(MASS_TEMPERATURES):
        mass = kept_mass(targets if temperature == 1.0 else some, temperature).double()
        found["mass_sum"][place] = mass.sum()
        found["mass_count"][place] = len(mass)
        found["masses"][place] = _histogram(mass, MASS_BINS)
    return found


def _every(targets: Targets, step: int, start: int) -> Targets:
    return targets[-start % step :: step]


def _count_soft(
    frame: Frame, targets: Targets, first: Tensor, part: int, start: int
) -> dict[str, Any]:
    """Add up softened probabilities by the first choice, over the classes of the matrix."""
    nothing, shown = count_nothing(frame), frame.classes[: frame.matrix]
    found = {name: getattr(nothing, name) for name in ("soft", "soft_count", *_WHERE)}
    row = places_of(frame.spec.class_count, shown)[first]  # (P,)
    places = torch.arange(len(targets))
    chosen = places[(row < frame.matrix) & ((start + places) % frame.every == 0)]
    if not len(chosen):
        return found
    shares = class_shares(targets[chosen], shown, frame.temperature).double()  # (p, A)
    for one in sorted(set(row[chosen].tolist())):
        of_one = (row[chosen] == one).nonzero().flatten()
        found["soft"][one] = shares[of_one].sum(0)
        found["soft_count"][one] = len(of_one)
        best, where = shares[of_one].max(0)
        found["best"][one], found["part"][one] = best, part
        found["position"][one] = start + chosen[of_one[where]]
    return found
