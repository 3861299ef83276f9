"""A basis, what a position's logits are along it, and what they were."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.targets.low_rank.steps import Bits, Steps, pack_steps


@dataclass(frozen=True, eq=False)
class Basis:
    """What a low-rank tail is measured along; `vectors` are as long as a step of a code.

    `bits` say how many of the directions have how many bits, where not all have 4.

    Shapes: bias and weights (C,), vectors (C, r).
    Units:  logits.
    """

    bias: Tensor
    weights: Tensor
    vectors: Tensor
    bits: Bits = ()

    @property
    def rank(self) -> int:
        return self.vectors.shape[1]

    def to(self, device: torch.device | str) -> "Basis":
        """Give the basis on a device; it is copied there once."""
        wanted = str(torch.device(device))
        if wanted not in self._copies:
            bias, weights = self.bias.to(device), self.weights.to(device)
            self._copies[wanted] = Basis(bias, weights, self.vectors.to(device), self.bits)
        return self._copies[wanted]

    @cached_property
    def _copies(self) -> dict[str, "Basis"]:
        return {str(self.bias.device): self}

    @cached_property
    def projection(self) -> tuple[Tensor, Tensor]:
        """Map logits to codes by weighted least squares: `logits @ matrix - offset`.

        Rows of the matrix are centred, so that the position's mean needs no subtracting.

        Shapes: returns (C, r) and (r,).
        """
        vectors, weights = self.vectors.double(), self.weights.double()
        weighted = vectors * weights[:, None]
        matrix = torch.linalg.solve(vectors.T @ weighted, weighted.T).T  # (C, r)
        offset = self.bias.double() @ matrix
        # A logit's mean over classes, times each column's sum, is what centring takes away.
        matrix = matrix - matrix.mean(0, keepdim=True)
        return matrix.float(), offset.float()


def encode_codes(basis: Basis, logits: Tensor, steps: tuple[Steps, ...]) -> NDArray[np.uint8]:
    """Find each position's steps along the basis. Shapes: logits (P, C); returns (P, bytes)."""
    matrix, offset = basis.to(logits.device).projection
    return pack_steps(logits.float() @ matrix - offset, steps)


def shape_logits(basis: Basis, codes: Tensor, temperature: float = 1.0) -> Tensor:
    """Rebuild softened logits, up to a number of each position's own.

    Shapes: codes (P, r); returns (P, C).
    """
    # In float32 whatever autocast says: three digits of a logit are not enough of a tail.
    with torch.autocast(codes.device.type, enabled=False):
        share = 1 / temperature
        return torch.addmm(basis.bias, codes, basis.vectors.T, beta=share, alpha=share)
