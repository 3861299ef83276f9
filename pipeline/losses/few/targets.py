"""KL(teacher || student) of few classes, in numpy: of all of them, or of those that were kept and
the others as one more.

The teacher's side of a whole window is made once, as a table of which each batch takes its rows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.targets import FEW_CLASSES, Mixture, Targets, log_tail_sum

# A table of more bytes is more than it saves.
TABLE_BYTES = 2**25


@dataclass(frozen=True)
class FewTargets:
    """Targets that are compared at a temperature; a rule for some of their positions."""

    targets: Targets
    temperature: float

    def __call__(
        self, at: NDArray[np.int64], log_probs: NDArray[np.float32]
    ) -> tuple[float, NDArray[np.float32]] | None:
        """Sum the divergence over the positions `at`, with its derivative by the student's logits
        divided by the temperature; None if the student has other classes.

        Shapes: at (p,), log_probs (p, C); returns (p, C).
        Units:  nats.
        Source: as in `pipeline/losses/tails.py`.
        """
        if log_probs.shape[1] != self.targets.class_count:
            return None
        rows = self._table.take(at, 0)
        width = self.targets.class_count + self.targets.has_tail
        taught, log_taught = rows[:, :width], rows[:, width : 2 * width]
        if self.targets.has_tail:
            asked, gradient = self._ask_with_tail(log_probs, taught, rows[:, 2 * width :])
        else:
            asked = log_probs * (1 / self.temperature)
            gradient = np.exp(asked)
            sums = np.add.reduce(gradient, axis=1, keepdims=True)
            gradient /= sums
            asked -= np.log(sums)
        gradient -= taught[:, : self.targets.class_count]
        apart = np.subtract(log_taught, asked, out=asked)
        apart *= taught
        return float(np.add.reduce(apart, axis=None)), gradient

    def _ask_with_tail(
        self,
        log_probs: NDArray[np.float32],
        taught: NDArray[np.float32],
        others: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give the student's log-probabilities with the tail's as one more, and its probabilities,
        of what was left out less the teacher's tail, which it shares as it does its own.

        Shapes: log_probs and others (p, C), taught (p, C + 1); returns (p, C + 1) and (p, C).
        """
        asked = np.empty(taught.shape, np.float32)
        exps = np.exp(np.multiply(log_probs, 1 / self.temperature, out=asked[:, :-1]))
        sums = np.add.reduce(exps, axis=1, keepdims=True)
        # Of the tail by itself, for 1 minus the kept mass is rounded.
        rest = exps * others
        tail = np.add.reduce(rest, axis=1, keepdims=True)
        np.log(tail, out=asked[:, -1:])
        asked -= np.log(sums)
        exps /= sums
        rest *= taught[:, -1:] / tail
        exps -= rest
        return asked, exps

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """Put side by side the teacher's probabilities, the tail's as one more, their logarithms,
        and which classes were left out; 0 where a class has none of these.

        Shapes: returns (P, 3 C + 2), or (P, 2 C) where every class was kept.
        """
        targets, c = self.targets, self.targets.class_count
        softened = targets.logits / self.temperature
        if targets.has_tail:
            log_tail = log_tail_sum(targets, self.temperature)[:, None]
            softened = torch.cat([softened, log_tail], 1)
        log_probs = softened.log_softmax(1)
        if targets.classes is None:
            return torch.cat([log_probs.exp(), log_probs], 1).numpy()
        places, width = targets.classes, c + targets.has_tail
        table = log_probs.new_zeros(len(targets), 2 * width + c * targets.has_tail)
        if targets.has_tail:
            table[:, 2 * width :] = 1
            table.scatter_(1, places + 2 * width, 0)
            places = torch.cat([places, places.new_full((len(places), 1), c)], 1)
        table.scatter_(1, places, log_probs.exp()).scatter_(1, places + width, log_probs)
        return table.numpy()


def few_targets(targets: Targets | Mixture, temperature: float, tail: str) -> FewTargets | None:
    """Make the rule of some targets, where there is one: some class is left out at each position,
    or none at all.
    """
    if isinstance(targets, Mixture) or targets.count is not None:
        return None
    c, is_bucket = targets.class_count, targets.has_tail and tail == "bucket"
    is_whole = not targets.has_tail and targets.logits.shape[1] == c
    if not (is_whole or (is_bucket and 0 < targets.logits.shape[1] < c)):
        return None
    is_small = c < FEW_CLASSES and 4 * (3 * c + 2) * len(targets) <= TABLE_BYTES
    is_here = targets.logits.device.type == "cpu"
    return FewTargets(targets, temperature) if is_small and is_here else None
