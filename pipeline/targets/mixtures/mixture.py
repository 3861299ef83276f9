"""The targets of several teachers for the same positions, and how much each of them counts.

It keeps them side by side, for their average is another one at every temperature.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.targets.kept import Targets
from pipeline.targets.soften import soften, weigh_draws


@dataclass(frozen=True)
class Mixture:
    """What several teachers said of the same P positions; `weights` sum to 1."""

    members: tuple[Targets, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, positions: slice | Tensor) -> "Mixture":
        """Select positions, by a slice, a mask (P,) or indices."""
        return self._each(lambda targets: targets[positions])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Mixture":
        return self._each(lambda targets: targets.to(device, non_blocking=non_blocking))

    @property
    def class_count(self) -> int:
        return self.members[0].class_count

    @property
    def has_tail(self) -> bool:
        """Whether any teacher's classes were left out."""
        return any(targets.has_tail for targets in self.members)

    @cached_property
    def statistics(self) -> Mapping[str, Tensor]:
        """Average the teachers' own statistics, those that all came with. Shapes: each (P,)."""
        first, *others = (targets.statistics for targets in self.members)
        return {
            name: self._average([first[name], *(each[name] for each in others)])
            for name in first
            if all(name in each for each in others)
        }

    def top_classes(self) -> Tensor:
        """Name the most probable class at temperature 1, of those that were kept.

        Draws speak for a teacher of whom nothing else was kept.

        Shapes: returns (P,), int64.
        """
        probs = [_probs_of_kept(targets) for targets in self.members]
        return self._average(probs).argmax(1)

    def _average(self, tensors: Sequence[Tensor]) -> Tensor:
        pairs = zip(self.weights, tensors, strict=True)
        return torch.stack([weight * tensor for weight, tensor in pairs]).sum(0)

    def _each(self, change: Callable[[Targets], Targets]) -> "Mixture":
        return replace(self, members=tuple(map(change, self.members)))


def mix_targets(members: Sequence[Targets], weights: Sequence[float] = ()) -> Mixture:
    """Put the targets of several teachers together; without weights they count equally.

    Raises: TargetError if they are not of the same classes and positions, or a weight is not above
        0.
    """
    shapes = {(len(targets), targets.class_count) for targets in members}
    if len(shapes) != 1:
        described = " and ".join(f"{p} positions of {c} classes" for p, c in sorted(shapes))
        raise TargetError(
            f"targets: the teachers of a mixture must have said something of the same positions "
            f"and classes; got {described or 'no teacher'}. Give caches of the same rows, of "
            "teachers with the same classes."
        )
    return Mixture(tuple(members), normalise_weights(weights, len(members)))


def normalise_weights(weights: Sequence[float], count: int) -> tuple[float, ...]:
    """Make the weights of some teachers sum to 1; without weights they count equally.

    Raises: TargetError if there is not one for each teacher, or one is not above 0.
    """
    given = list(weights) or [1.0] * count
    if len(given) != count or not all(0 < weight < float("inf") for weight in given):
        shown = ", ".join(f"{weight:g}" for weight in given)
        raise TargetError(
            f"targets: weights must be {count} numbers above 0, one a teacher; got {shown}"
        )
    total = sum(given)
    return tuple(weight / total for weight in given)


def _probs_of_kept(targets: Targets) -> Tensor:
    """Spread what was kept over all classes; of the others 0. Shapes: returns (P, C)."""
    probs = soften(targets, 1.0).log_probs.exp()
    if targets.classes is None:
        return probs
    spread = probs.new_zeros(len(targets), targets.class_count)
    spread.scatter_add_(1, targets.classes, probs)
    if targets.drawn is not None and not probs.shape[1]:
        weights, _ = weigh_draws(targets, 1.0)
        spread.scatter_add_(1, targets.drawn, weights.to(spread.dtype))
    return spread
