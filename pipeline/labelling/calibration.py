"""One temperature at which a teacher's confidence means what it says, from a labelled cache.

The labelled rows must not be those the teacher was trained on: on those it is right too often.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import TargetError
from pipeline.labelling.answers import Answers, Asked, answer_part, confidence
from pipeline.labelling.certainty import label_surprise
from pipeline.metrics import CALIBRATION_BINS, bin_confidence, calibration_error

# Where the temperature is looked for; where classes were left out, from 1 on.
LOWEST, HIGHEST = 0.05, 100.0
# Of the logarithm of the temperature.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it changes on the labelled rows: at 1 (before) and at it (after).

    Units: nll in nats; ece, the expected calibration error, a share, over equal-width bins.
    """

    temperature: float
    labelled: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    bins: int = CALIBRATION_BINS
    # Whether a temperature below 1 would be better, which cut targets do not serve.
    is_cut: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Judged:
    """Labelled rows: what the teacher called them, and whether that is so.

    Shapes: answers and right (n,).
    """

    answers: Answers
    right: NDArray[np.bool_]
    # How often each class is the truth. Shapes: (C,).
    truth: NDArray[np.int64]


def fit_temperature(asked: Asked) -> Calibration:
    """Fit one temperature by the negative log-likelihood of the labels.

    Memory does not grow with the rows: every temperature that is tried reads the cache again.

    Raises: TargetError if the cache has no labels, or does not keep what is needed.
    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2 (temperature scaling).
    """
    from scipy.optimize import minimize_scalar

    lowest = 1.0 if asked.kept.spec.has_tail else LOWEST
    found = minimize_scalar(
        lambda log: _measure(asked, float(np.exp(log)))[0],
        bounds=(np.log(lowest), np.log(HIGHEST)),
        method="bounded",
        options={"xatol": TOLERANCE},
    )
    temperature = float(np.exp(found.x))
    before, after = (_judge(asked, each) for each in (1.0, temperature))
    if before[0] <= after[0]:  # the bound itself, which the search only comes close to
        temperature, after = 1.0, before
    return Calibration(
        temperature,
        labelled=before[2],
        nll_before=before[0],
        nll_after=after[0],
        ece_before=before[1],
        ece_after=after[1],
        is_cut=asked.kept.spec.has_tail and temperature == 1.0,
    )


def judge(asked: Asked, temperature: float) -> Judged:
    """Compare what the teacher calls the labelled rows with their labels; 17 bytes a row."""
    answers, right = list[Answers](), list[NDArray[np.bool_]]()
    truth = np.zeros(asked.kept.spec.class_count, np.int64)
    for found, labels in asked.each_part(partial(_answer_labelled, asked, temperature)):
        answers.append(found)
        right.append(found["label"] == labels)
        truth += np.bincount(labels, minlength=len(truth))
    return Judged(np.concatenate(answers), np.concatenate(right), truth)


def _answer_labelled(
    asked: Asked, temperature: float, part: int
) -> tuple[Answers, NDArray[np.int64]]:
    labels = asked.labels(part)
    known = labels >= 0
    return answer_part(asked, temperature, part)[known], labels[known]


def _measure(asked: Asked, temperature: float) -> tuple[float, int]:
    """Give the mean surprise of the labels, in nats, and count them."""
    total, count = 0.0, 0
    for surprise, labelled in asked.each_part(partial(_surprise, asked, temperature)):
        total, count = total + surprise, count + labelled
    if not count:
        raise TargetError(
            f"{asked.cache.path}: has no labels, so there is nothing to calibrate on. Cache data "
            "with a label column, or leave pseudo_labels.labelled_cache out."
        )
    return total / count, count


def _surprise(asked: Asked, temperature: float, part: int) -> tuple[float, int]:
    labels = torch.from_numpy(asked.labels(part))
    known = labels >= 0
    with torch.inference_mode():
        targets = asked.targets(part)[known]
        return float(label_surprise(targets, labels[known], temperature).sum()), int(known.sum())


def _judge(asked: Asked, temperature: float) -> tuple[float, float, int]:
    """Give the mean surprise, the calibration error, and the number of labelled rows."""
    mean, count = _measure(asked, temperature)
    bins = torch.zeros(3, CALIBRATION_BINS, dtype=torch.float64)
    for each in _bins(asked, temperature):
        bins += each
    return mean, calibration_error(bins), count


def _bins(asked: Asked, temperature: float) -> Iterator[torch.Tensor]:
    for found, labels in asked.each_part(partial(_answer_labelled, asked, temperature)):
        sure = torch.from_numpy(confidence(found))
        yield bin_confidence(sure, torch.from_numpy(found["label"] == labels))
