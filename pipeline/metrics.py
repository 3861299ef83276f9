"""How good a model's answers are: tensors in, numbers out.

Tallies add up over batches of any size, exactly. Knows neither models nor data. A number that has
no positions to stand on is None.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

UNLABELLED = -1
# exp of more nats is beyond a float.
MOST_NATS = 700.0
# Equal-width bins of confidence over [0, 1]; the usual number (Guo et al. 2017, arXiv:1706.04599).
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Tally:
    """Sums over the positions of some batches; tallies of more batches are added with `+`.

    Shapes: bins (3, 15): positions, sum of confidence and number correct in each confidence bin.
    """

    labelled: int
    correct: int
    surprise: float
    compared: int
    agreed: int
    bins: Tensor

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.labelled + other.labelled,
            self.correct + other.correct,
            self.surprise + other.surprise,
            self.compared + other.compared,
            self.agreed + other.agreed,
            self.bins + other.bins,
        )

    @property
    def accuracy(self) -> float | None:
        """The share of labelled positions whose largest logit is the label's."""
        return self.correct / self.labelled if self.labelled else None

    @property
    def negative_log_likelihood(self) -> float | None:
        """The mean of -log p(label) over labelled positions, in nats."""
        return self.surprise / self.labelled if self.labelled else None

    @property
    def perplexity(self) -> float | None:
        """The number of equally likely classes that would be as surprising: exp of the mean."""
        mean = self.negative_log_likelihood
        return None if mean is None or mean > MOST_NATS else math.exp(mean)

    @property
    def agreement(self) -> float | None:
        """The share of positions whose largest logit is the teacher's first choice."""
        return self.agreed / self.compared if self.compared else None

    @property
    def expected_calibration_error(self) -> float | None:
        """The mean gap between confidence and accuracy over bins, weighted by their positions.

        Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
        """
        return calibration_error(self.bins) if self.labelled else None


def tally(logits: Tensor, labels: Tensor, teacher_classes: Tensor | None = None) -> Tally:
    """Count what one batch of answers got right.

    Shapes: logits (P, C); labels (P,), -1 where there is none; teacher_classes (P,).
    """
    chosen = logits.argmax(1)
    agreed = 0 if teacher_classes is None else int((chosen == teacher_classes).sum())
    known = labels != UNLABELLED
    labels, chosen = labels[known], chosen[known]
    log_probs = logits[known].float().log_softmax(1)
    correct = chosen == labels
    confidence = log_probs.amax(1).exp()
    return Tally(
        labelled=len(labels),
        correct=int(correct.sum()),
        surprise=-float(log_probs.gather(1, labels[:, None]).double().sum()),
        compared=0 if teacher_classes is None else len(teacher_classes),
        agreed=agreed,
        bins=bin_confidence(confidence, correct),
    )


def calibration_error(bins: Tensor) -> float:
    """Give the expected calibration error of at least one position. Shapes: bins (3, 15).

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    count, confidence, correct = bins
    return float((confidence - correct).abs().sum() / count.sum())


def bin_confidence(confidence: Tensor, correct: Tensor) -> Tensor:
    """Sort positions into equal-width bins of confidence, and add up each.

    Shapes: confidence and correct (P,); returns (3, 15): positions, sum of confidence, and number
        correct.
    """
    # A confidence of exactly 1 belongs to the last bin.
    place = (confidence * CALIBRATION_BINS).long().clamp_(max=CALIBRATION_BINS - 1)
    rows = torch.stack([torch.ones_like(confidence), confidence, correct.float()]).double()
    bins = rows.new_zeros(3, CALIBRATION_BINS)
    return bins.index_add_(1, place, rows).cpu()
