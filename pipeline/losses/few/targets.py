"""KL(teacher || student) of few classes, in numpy: of all of them, or of those that were kept and
the others as one more.

The teacher's side of a whole window is made once, as tables of which each batch takes its rows.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.targets import FEW_CLASSES, Mixture, Targets, log_tail_sum

Array = NDArray[np.float32]
# Tables of more bytes are more than they save.
TABLE_BYTES = 2**25


class _Kept(NamedTuple):
    """The teacher's probabilities and their logarithms, both 0 where a class was left out.

    Shapes: (P, C) each.
    """

    taught: Array
    log_taught: Array


class _Tail(NamedTuple):
    """Those of all that was left out, and a 1 for each class that was.

    Shapes: taught and log_taught (P,), others (P, C).
    """

    taught: Array
    log_taught: Array
    others: Array


@dataclass(frozen=True)
class FewTargets:
    """Targets that are compared at a temperature; a rule for some of their positions.

    Each array of what is compared lies by itself: rows of one for all would be strided, and numpy
    takes longer to begin with those than with all else.
    """

    targets: Targets
    temperature: float

    def __call__(self, at: NDArray[np.int64], log_probs: Array) -> tuple[float, Array] | None:
        """Sum the divergence over the positions `at`, with its derivative by the student's logits
        divided by the temperature; None if the student has other classes.

        Shapes: at (p,), log_probs (p, C); returns (p, C).
        Units:  nats.
        Source: as in `pipeline/losses/tails.py`.
        """
        if log_probs.shape[1] != self.targets.class_count:
            return None
        kept, left_out = self._tables
        taught, apart = kept.taught.take(at, 0), kept.log_taught.take(at, 0)
        asked = log_probs * (1 / self.temperature)
        gradient = np.exp(asked)
        sums = np.add.reduce(gradient, axis=1)[:, None]
        gradient /= sums  # the student's probabilities
        asked -= np.log(sums)
        apart -= asked
        apart *= taught
        value = float(np.add.reduce(apart, axis=None))
        if left_out:
            more, shared = _compare_tail(left_out, at, gradient)
            value += more
            gradient -= shared
        gradient -= taught
        return value, gradient

    @cached_property
    def _tables(self) -> tuple[_Kept, _Tail | None]:
        """Make the teacher's side of all positions."""
        targets = self.targets
        softened = targets.logits / self.temperature
        if targets.has_tail:
            log_tail = log_tail_sum(targets, self.temperature)[:, None]
            softened = torch.cat([softened, log_tail], 1)
        log_probs = softened.log_softmax(1)
        if targets.classes is None:
            return _Kept(log_probs.exp().numpy(), log_probs.numpy()), None
        own, places = log_probs[:, : targets.logits.shape[1]], targets.classes
        none = log_probs.new_zeros(len(targets), targets.class_count)
        kept = _Kept(*(none.scatter(1, places, each).numpy() for each in (own.exp(), own)))
        if not targets.has_tail:
            return kept, None
        of_tail = log_probs[:, -1].contiguous()
        others = torch.ones_like(none).scatter_(1, places, 0)
        return kept, _Tail(of_tail.exp().numpy(), of_tail.numpy(), others.numpy())


def _compare_tail(tail: _Tail, at: NDArray[np.int64], probs: Array) -> tuple[float, Array]:
    """Sum what the tails are apart, with the teacher's tail as the student shares out its own.

    Shapes: at (p,), probs (p, C); returns (p, C).
    """
    rest, taught, apart = tail.others.take(at, 0), tail.taught.take(at), tail.log_taught.take(at)
    rest *= probs
    # Of the tail by itself, for 1 minus the kept mass is rounded.
    masses = np.add.reduce(rest, axis=1)
    apart -= np.log(masses)
    apart *= taught
    taught /= masses
    rest *= taught[:, None]
    return float(np.add.reduce(apart)), rest


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
