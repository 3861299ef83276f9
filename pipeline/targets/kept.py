"""Targets in a student's hands: tensors, from the arrays of a cache.

Knows the fields' meaning, not the files they came from, and not what a loss makes of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.targets.low_rank import Basis, decode_codes
from pipeline.targets.spec import TargetSpec


@dataclass(frozen=True)
class Targets:
    """What was kept of the teacher's answer at P positions.

    `classes` is None where all classes were kept, in class order; `tail` is None where none was
    left out. The tail holds K at each node, then K'(0) and K'(1); where its shape was kept, `codes`
    are steps along the vectors of `basis`.

    Shapes: logits (P, K), relative to each position's largest; classes (P, K), int64; tail (P, M);
        codes (P, r).
    """

    class_count: int
    logits: Tensor
    classes: Tensor | None = None
    tail: Tensor | None = None
    nodes: tuple[float, ...] = ()
    codes: Tensor | None = None
    basis: Basis | None = None

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
    def left_out_count(self) -> int:
        return self.class_count - self.logits.shape[1]

    def top_classes(self) -> Tensor:
        """Name the teacher's first choice. Shapes: returns (P,), int64."""
        return self.logits.argmax(1) if self.classes is None else self.classes[:, 0]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Targets":
        return replace(
            self,
            logits=change(self.logits),
            classes=None if self.classes is None else change(self.classes),
            tail=None if self.tail is None else change(self.tail),
            codes=None if self.codes is None else change(self.codes),
        )


def decode(
    spec: TargetSpec, arrays: Mapping[str, NDArray[np.generic]], basis: Basis | None = None
) -> Targets:
    """Read the targets back from their fields; the arrays are copied, so they may be read-only.

    Without the basis of a low-rank tail its mass is all that is known of it.

    Shapes: arrays of `target_fields`, (P, ...); statistics, if there, are not needed.
    """
    return Targets(
        class_count=spec.class_count,
        logits=_tensor(arrays["logits"]).float(),
        classes=torch.from_numpy(arrays["classes"].astype(np.int64))
        if spec.kind == "top_k"
        else None,
        tail=_tensor(arrays["tail"]) if spec.has_tail else None,
        nodes=spec.nodes if spec.has_tail else (),
        codes=decode_codes(arrays["codes"], spec.rank) if basis else None,
        basis=basis,
    )


def decode_basis(arrays: Mapping[str, NDArray[np.generic]]) -> Basis:
    """Read a basis back. Shapes: arrays of `basis_fields`, (C, ...)."""
    return Basis(**{name: _tensor(array).float() for name, array in arrays.items()})


def encode_basis(basis: Basis) -> dict[str, NDArray[np.generic]]:
    """Shapes: returns the arrays of `basis_fields`, (C, ...)."""
    arrays = {"bias": basis.bias, "weights": basis.weights, "vectors": basis.vectors.half()}
    return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}


def _tensor(array: NDArray[np.generic]) -> Tensor:
    # torch warns about read-only memory; a copy of float16 costs less than numpy's own conversion.
    return torch.from_numpy(array.copy())
