"""Targets in a student's hands: tensors, from the arrays of a cache.

Knows the fields' meaning, not the files they came from, and not what a loss makes of them.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.targets.compact import unpack_tail
from pipeline.targets.draws import unpack_draws
from pipeline.targets.low_rank.basis import Basis
from pipeline.targets.low_rank.steps import unpack_steps
from pipeline.targets.rounding import unpack_logits
from pipeline.targets.spec import RANGE_OF, STATISTICS, TargetSpec, derived

# A field as it is stored: of files in an array, of a batch on its way to a device in a tensor.
Field = NDArray[np.generic] | Tensor


@dataclass(frozen=True)
class Targets:
    """What was kept of the teacher's answer at P positions.

    `classes` is None where all classes were kept, in class order; `tail` is None where none was
    left out. The tail holds K at each node, then K'(0) and K'(1), or K at the first node alone;
    where its shape was kept, `codes` are steps along the vectors of `basis`. Where the number of
    kept classes varies, `count` says how many there are; what follows repeats the first class,
    without mass. `drawn` were drawn from the tail, with replacement, at `proposal_temperature`;
    where nothing else was kept, `top` is the teacher's first choice. `statistics` are those that
    were asked for.

    Shapes: logits (P, K), relative to each position's largest; classes (P, K), int64; tail (P, M);
        codes (P, r); drawn and drawn_logits (P, D); count, top and statistics (P,).
    """

    class_count: int
    logits: Tensor
    classes: Tensor | None = None
    tail: Tensor | None = None
    nodes: tuple[float, ...] = ()
    codes: Tensor | None = None
    basis: Basis | None = None
    count: Tensor | None = None
    drawn: Tensor | None = None
    drawn_logits: Tensor | None = None
    proposal_temperature: float = 1.0
    top: Tensor | None = None
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, positions: slice | Tensor) -> "Targets":
        """Select positions, by a slice, a mask (P,) or indices."""
        return self._each(lambda tensor: tensor[positions])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Targets":
        if self.logits.device == torch.device(device):
            return self
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        return replace(moved, basis=self.basis.to(device)) if self.basis else moved

    @property
    def has_tail(self) -> bool:
        """Whether classes were left out."""
        return self.tail is not None

    @property
    def has_mass_alone(self) -> bool:
        """Whether of the tail's mass only that at T = 1 is kept; the others follow from codes."""
        return self.tail is not None and self.tail.shape[1] == 1

    @property
    def left_out_count(self) -> int | Tensor:
        """How many classes were left out; (P,) where that varies."""
        if self.count is not None:
            return self.class_count - self.count
        return self.class_count - self.logits.shape[1]

    @property
    def is_spare(self) -> Tensor | None:
        """Mark the places that hold no class of their own. Shapes: (P, K), or None."""
        if self.count is None:
            return None
        places = torch.arange(self.logits.shape[1], device=self.count.device)
        return places >= self.count[:, None]

    def top_classes(self) -> Tensor:
        """Name the teacher's first choice. Shapes: returns (P,), int64."""
        if self.top is not None:
            return self.top
        return self.logits.argmax(1) if self.classes is None else self.classes[:, 0]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Targets":
        changed: dict[str, Any] = {
            name: change(value)
            for name in _OVER_POSITIONS
            if (value := getattr(self, name)) is not None
        }
        statistics = {name: change(value) for name, value in self.statistics.items()}
        return replace(self, **changed, statistics=statistics)


_OVER_POSITIONS = (
    *("logits", "classes", "tail", "codes"),
    *("count", "drawn", "drawn_logits", "top"),
)


def decode(
    spec: TargetSpec,
    arrays: Mapping[str, Field],
    basis: Basis | None = None,
    statistics: Collection[str] = STATISTICS,
) -> Targets:
    """Read the targets back from their fields; arrays are copied, so they may be read-only.

    Without the basis of a low-rank tail its mass is all that is known of it. `statistics` are those
    asked for, where they are in the arrays or follow from them. Fields that are tensors are widened
    on their device, where the basis must be too.

    Shapes: arrays of `target_fields`, (P, ...); statistics need not be there.
    """
    first = _tensor(next(iter(arrays.values())))
    nothing = first.new_empty((len(first), 0), dtype=torch.float16)
    logits = _logits(arrays, "logits") if "logits" in arrays else nothing.float()
    tail = _tail(spec, arrays["tail"], logits) if spec.has_tail else None
    found = {name: _tensor(arrays[name]).float() for name in statistics if name in arrays}
    if wanted := [name for name in derived(spec) if name in statistics]:
        followed = _derive(logits, tail)
        found |= {name: followed[name] for name in wanted}
    return Targets(
        class_count=spec.class_count,
        logits=logits,
        classes=None if spec.kind == "all" else _whole(arrays.get("classes", nothing)),
        tail=tail,
        nodes=spec.nodes if spec.has_tail else (),
        codes=unpack_steps(_tensor(arrays["codes"]), spec.steps) if basis else None,
        basis=basis,
        count=_whole(arrays["count"]) if "count" in arrays else None,
        drawn=_of_draws(arrays, _whole(arrays["drawn"])) if spec.draws else None,
        drawn_logits=_of_draws(arrays, _logits(arrays, "drawn_logits")) if spec.draws else None,
        proposal_temperature=spec.proposal_temperature,
        top=_whole(arrays["top"]) if "top" in arrays else None,
        statistics=found,
    )


def _logits(arrays: Mapping[str, Field], name: str) -> Tensor:
    stored = _tensor(arrays[name])
    if stored.dtype != torch.uint8:
        return stored.float()
    return unpack_logits(stored, _tensor(arrays[RANGE_OF[name]]))


def _of_draws(arrays: Mapping[str, Field], kept: Tensor) -> Tensor:
    return unpack_draws(kept, _tensor(arrays["drawn_new"])) if "drawn_new" in arrays else kept


def _derive(logits: Tensor, tail: Tensor | None) -> dict[str, Tensor]:
    """Compute the largest probability and the margin, of sums over all classes."""
    total = logits.exp().sum(1)
    if tail is not None:
        total = total + tail[:, 0].exp()
    second = logits.topk(min(2, logits.shape[1]), dim=1).values[:, 1:]
    return {"confidence": 1 / total, "margin": (1 - second.exp().sum(1)) / total}


def _tail(spec: TargetSpec, array: Field, logits: Tensor) -> Tensor:
    tail = _tensor(array)
    nodes = spec.nodes[: tail.shape[1]]
    # Of 16 bits only in caches that say so by the dtype; older ones hold float32.
    return unpack_tail(tail, logits, nodes) if tail.dtype == torch.int16 else tail


def _whole(array: Field) -> Tensor:
    return array.long() if isinstance(array, Tensor) else torch.from_numpy(array.astype(np.int64))


def decode_basis(arrays: Mapping[str, NDArray[np.generic]], spec: TargetSpec) -> Basis:
    """Read a basis back. Shapes: arrays of `basis_fields`, (C, ...)."""
    bias, weights, vectors = (
        _tensor(arrays[name]).float() for name in ("bias", "weights", "vectors")
    )
    return Basis(bias, weights, vectors, spec.bits)


def encode_basis(basis: Basis) -> dict[str, NDArray[np.generic]]:
    """Shapes: returns the arrays of `basis_fields`, (C, ...)."""
    arrays = {"bias": basis.bias, "weights": basis.weights, "vectors": basis.vectors.half()}
    return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}


def _tensor(array: Field) -> Tensor:
    if isinstance(array, Tensor):
        return array
    # torch warns about read-only memory; a copy of float16 costs less than numpy's own conversion.
    return torch.from_numpy(array.copy())
