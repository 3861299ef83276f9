"""What a set of pseudo-labels is worth: how many of each class, how right, and what to beware of.

Counts in, numbers and sentences out; it knows no files.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labelling.bounds import Interval, interval
from pipeline.labelling.calibration import Judged
from pipeline.labelling.choice import Choice

# Total variation between two mixes of classes: which share of rows is of other classes than it
# should be. Beyond what so few labelled rows are off by.
SKEWED = 0.05
REPEATED = 10
# Mean confidence on labelled and unlabelled rows: further apart, the one says little of the other.
SHIFTED = 0.05
SHOWN = 5


@dataclass
class Tally:
    """Counts over all rows. Shapes: chosen and copies (C,)."""

    chosen: NDArray[np.int64]
    copies: NDArray[np.int64]
    rows: int = 0
    confidence_sum: float = 0.0
    chosen_confidence_sum: float = 0.0


@dataclass(frozen=True)
class Skew:
    """How far the classes of the chosen rows are from those of all, and whether that was asked for.

    `most` and `least` are the classes that are furthest off.
    """

    distance: float
    of: str
    most: int
    least: int
    is_harmful: bool


def measure_skew(choice: Choice, tally: Tally, judged: Judged | None) -> Skew:
    """Compare the classes of the chosen rows with those of the labelled, or else of all, rows."""
    reference, of = _reference(choice, judged)
    shares = reference / reference.sum()
    off = tally.copies / tally.copies.sum() - shares
    distance = float(np.abs(off).sum() / 2)
    # What so few reference rows are off by themselves, on average.
    noise = float(np.sqrt(2 / np.pi * shares * (1 - shares) / reference.sum()).sum() / 2)
    is_harmful = distance > SKEWED + noise and not _is_balanced(choice)
    return Skew(distance, of, int(off.argmax()), int(off.argmin()), is_harmful)


def expect(choice: Choice, judged: Judged) -> Interval:
    """Count how many of the labelled rows that the same limits choose are right."""
    chosen = choice.would_choose(judged.answers)
    return interval(int(judged.right[chosen].sum()), int(chosen.sum()))


def summarise(
    choice: Choice, tally: Tally, judged: Judged | None, names: list[str] | None
) -> dict[str, Any]:
    """Say what was kept of each class, what precision to expect, and what to beware of."""
    expected = expect(choice, judged) if judged else None
    skew = measure_skew(choice, tally, judged)
    chosen = int(tally.chosen.sum())
    return {
        "rows": tally.rows,
        "chosen": chosen,
        "rows_an_epoch": int(tally.copies.sum()),
        "mean_confidence": tally.confidence_sum / tally.rows,
        "mean_confidence_of_chosen": tally.chosen_confidence_sum / chosen,
        "classes": _classes(choice, tally, names),
        "expected_precision": None if expected is None else asdict(expected),
        "promises": [asdict(promise) for promise in choice.limits.promises],
        "skew": asdict(skew),
        "warnings": _warn(choice, tally, judged, names, skew),
    }


def _classes(choice: Choice, tally: Tally, names: list[str] | None) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "name": names[label] if names else None,
            "predicted": int(choice.predicted[label]),
            "admitted": int(choice.admitted[label]),
            "chosen": int(tally.chosen[label]),
            "copies": int(tally.copies[label]),
        }
        for label in range(len(tally.chosen))
    ]


def _warn(
    choice: Choice, tally: Tally, judged: Judged | None, names: list[str] | None, skew: Skew
) -> list[str]:
    """List what harms students, each with what to do."""
    found = []
    if skew.is_harmful:
        found.append(
            f"classes are skewed: {skew.distance:.0%} of the chosen rows would have to be of other "
            f"classes to be as {skew.of}; {_name(skew.most, names)} is chosen too often, "
            f"{_name(skew.least, names)} too seldom. Alone, hard labels like these teach a student "
            "the wrong mix: set pseudo_labels.balanced = true, and train beside labelled data"
        )
    reference = _reference(choice, judged)[0]
    if missing := np.flatnonzero((tally.copies == 0) & (reference > 0)).tolist():
        found.append(
            f"classes without a pseudo-label: {_listed(missing, names)}; a student that sees these "
            "rows alone unlearns them"
        )
    often = np.flatnonzero(tally.copies > REPEATED * np.maximum(tally.chosen, 1)).tolist()
    if often:
        found.append(
            f"classes whose few rows are repeated more than {REPEATED} times an epoch: "
            f"{_listed(often, names)}; ask for fewer a class, or for a lower limit"
        )
    if judged is not None:
        found += _warn_of_shift(tally, judged)
    return found


def _warn_of_shift(tally: Tally, judged: Judged) -> list[str]:
    labelled = float(np.exp(-judged.answers["doubt"].astype(np.float64)).mean())
    unlabelled = tally.confidence_sum / tally.rows
    # Within what so few labelled rows may be off by.
    noise = 4 * float(np.exp(-judged.answers["doubt"]).std()) / len(judged.right) ** 0.5
    if abs(labelled - unlabelled) <= max(SHIFTED, noise):
        return []
    return [
        f"the teacher's mean confidence is {unlabelled:.3f} on the unlabelled rows and "
        f"{labelled:.3f} on the labelled ones: they are not alike, so what is expected from the "
        "labelled rows may not hold"
    ]


def _is_balanced(choice: Choice) -> bool:
    return choice.wanted.balanced or choice.wanted.per_class is not None


def _reference(choice: Choice, judged: Judged | None) -> tuple[NDArray[np.int64], str]:
    """Count the classes as they should be: by labels, or else as the teacher calls all rows."""
    if judged is not None:
        return judged.truth, "the labelled rows"
    return choice.predicted, "all rows, as the teacher calls them"


def _listed(labels: list[int], names: list[str] | None) -> str:
    shown = ", ".join(_name(label, names) for label in labels[:SHOWN])
    return shown + (f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else "")


def _name(label: int, names: list[str] | None) -> str:
    return names[label] if names else str(label)
