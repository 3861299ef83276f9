"""Which rows may have a pseudo-label: the limits that a rule sets, before any class is full.

To add a rule, write how it sets limits and add a line to `RULES`. It knows answers, not the cache
they come from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TargetError, see
from pipeline.labelling.answers import Answers, confidence
from pipeline.labelling.bounds import Promise, fewest, find_widest
from pipeline.labelling.calibration import Judged


@dataclass(frozen=True)
class Wanted:
    """What a recipe asks for: a rule with its numbers, and how many rows there may be of it."""

    kind: str
    settings: Mapping[str, Any]
    balanced: bool = False
    most_per_class: int | None = None
    most: int | None = None

    @property
    def per_class(self) -> int | None:
        """How many rows of every class the rule itself asks for."""
        return self.settings["count"] if self.kind == "per_class" else None


@dataclass(frozen=True)
class Limits:
    """What a row must reach; `doubts` says it for each class, -inf where none may.

    Shapes: doubts (C,); promises, one for all classes, or one each, or none.
    """

    doubts: NDArray[np.float64]
    confidence: float = 0.0
    margin: float = 0.0
    promises: tuple[Promise, ...] = ()

    def admit(self, answers: Answers) -> NDArray[np.bool_]:
        """Mark the rows that reach it. Shapes: answers (n,); returns (n,)."""
        found: NDArray[np.bool_] = (
            (answers["doubt"] <= self.doubts[answers["label"]])
            & (confidence(answers) >= np.float32(self.confidence))
            & (answers["margin"] >= np.float32(self.margin))
        )
        return found


def find_limits(wanted: Wanted, class_count: int, judged: Judged | None, where: str) -> Limits:
    """Set the limits of a rule.

    `where` names the rule in messages.

    Raises: TargetError if a promise is asked for and there are no labelled rows, or too few of
        them, or too many of them wrong.
    """
    limits = Limits(np.full(class_count, np.inf))
    return RULES[wanted.kind](limits, wanted.settings, judged, where)


def _promise(
    limits: Limits, settings: Mapping[str, Any], judged: Judged | None, where: str
) -> Limits:
    """Keep the widest set that is as precise as promised, over all classes or in each of them."""
    if judged is None:
        error = TargetError(
            f"{where}: 'precision' is measured on labelled samples, and pseudo_labels has no "
            "labelled_cache. Cache labelled data that the teacher was not trained on, and name it "
            "there; or use the rule 'threshold'."
        )
        raise see(error, "pseudo-labels.md")
    # The lower end of an interval of that confidence, which leaves out as much on its other side.
    precision, risk = settings["at_least"], (1 - settings["confidence"]) / 2
    classes = range(len(limits.doubts)) if settings["every_class"] else [None]
    # Every class may break the promise, so each has its share of the risk.
    risk /= len(classes)
    promises = tuple(_widest(judged, each, precision, risk) for each in classes)
    if all(promise.doubt is None for promise in promises):
        raise TargetError(_no_promise(where, judged, settings, risk))
    doubts = [-np.inf if promise.doubt is None else promise.doubt for promise in promises]
    return replace(limits, doubts=np.broadcast_to(doubts, limits.doubts.shape), promises=promises)


def _widest(judged: Judged, of_class: int | None, precision: float, risk: float) -> Promise:
    answers, right = judged.answers, judged.right
    ours = slice(None) if of_class is None else answers["label"] == of_class
    return find_widest(answers["doubt"][ours], right[ours], precision=precision, risk=risk)


def _no_promise(where: str, judged: Judged, settings: Mapping[str, Any], risk: float) -> str:
    precision, least = settings["at_least"], fewest(settings["at_least"], risk)
    if settings["every_class"]:
        most = int(np.bincount(judged.answers["label"]).max())
        told = f"the most frequent class of {len(judged.right)} labelled rows has {most}"
    else:
        surest = np.argsort(judged.answers["doubt"], kind="stable")[:least]
        told = f"of the surest {len(surest)} labelled rows {int((~judged.right[surest]).sum())}"
        told += " are wrong" if len(surest) == least else " are wrong, and there are no more"
    return (
        f"{where}: no pseudo-labels can be promised to be right with {precision:g} at "
        f"{settings['confidence']:g} confidence: that takes {least} labelled rows of which none is "
        f"wrong{' in a class' if settings['every_class'] else ''}, or more; {told}. Give more "
        "labelled rows, or ask for less."
    )


def _no_limit(limits: Limits, *_: Any) -> Limits:
    return limits


SetLimits = Callable[[Limits, Mapping[str, Any], Judged | None, str], Limits]
RULES: dict[str, SetLimits] = {
    "threshold": lambda limits, settings, *_: replace(limits, confidence=settings["at_least"]),
    "margin": lambda limits, settings, *_: replace(limits, margin=settings["at_least"]),
    "precision": _promise,
    "per_class": _no_limit,
    "all": _no_limit,
}
