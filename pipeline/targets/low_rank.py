"""The shape of the tail: a few numbers a position, on a basis that the whole cache shares.

A language model's logits are a linear map of a hidden state, so after subtracting the position's
mean they lie close to a bias plus a few directions. Which of them matter is found once, on sampled
positions; a position then keeps one 4-bit step along each. Knows logits, not where they come from.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import TargetError

# Steps to either side of 0: with 15 levels two codes fill a byte. At equal bytes, rank 64 of 4 bits
# beats rank 32 of 8: KL 0.196 and 0.250 at T = 1 (top-12 of 49,152).
STEPS = 7
# So many standard deviations are STEPS steps away.
REACH = 2.5
# Classes weigh as this power of their mean probability in the squared error: higher serves T = 1,
# lower T = 4; between 0.25 and 0.5 it hardly matters.
WEIGHT_POWER = 0.4
LEAST_PROBABILITY = 1e-9
# Of randomised subspace iteration (Halko, Martinsson and Tropp 2011, arXiv:0909.4061).
SPARE_VECTORS, ITERATIONS = 16, 2

Blocks = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True, eq=False)
class Basis:
    """What a low-rank tail is measured along; `vectors` are as long as a step of a code.

    Shapes: bias and weights (C,), vectors (C, r).
    Units:  logits.
    """

    bias: Tensor
    weights: Tensor
    vectors: Tensor

    @property
    def rank(self) -> int:
        return self.vectors.shape[1]

    def to(self, device: torch.device | str) -> "Basis":
        """Give the basis on a device; it is copied there once."""
        wanted = str(torch.device(device))
        if wanted not in self._copies:
            self._copies[wanted] = Basis(
                self.bias.to(device), self.weights.to(device), self.vectors.to(device)
            )
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


def fit_basis(blocks: Blocks, rank: int, seed: int) -> Basis:
    """Find the directions along which logits vary most, in weighted squared error.

    `blocks` yields the same logits each time it is called.

    Shapes: blocks of (some, C).
    Raises: TargetError if there are fewer positions or classes than directions.
    """
    bias, probability, count = _means(blocks)
    if rank >= min(count, len(bias)):
        raise TargetError(
            f"targets.tail.rank: must be below {min(count, len(bias))}, for there are {len(bias)} "
            f"classes and {count} positions to learn from; got {rank}. Give a lower one, or keep "
            "the tail's mass alone: tail = { kind = 'bucket' }"
        )
    weights = (probability + LEAST_PROBABILITY) ** WEIGHT_POWER
    weights /= weights.mean()
    root = weights.sqrt()

    def scaled() -> Iterator[Tensor]:
        for block in blocks():
            yield (_centred(block) - bias) * root

    width = min(rank + SPARE_VECTORS, count, len(bias))
    generator = torch.Generator().manual_seed(seed)
    span = torch.randn(len(bias), width, generator=generator).to(bias)
    for _ in range(ITERATIONS):
        along = torch.linalg.qr(_along(scaled, span))[0]  # (N, width)
        back, start = torch.zeros_like(span), 0
        for block in scaled():
            back.addmm_(block.T, along[start : start + len(block)])
            start += len(block)
        span = torch.linalg.qr(back)[0]
    along = _along(scaled, span)
    _, _, turn = torch.linalg.svd(along, full_matrices=False)
    turn = turn[:rank].T  # (width, r)
    deviation = (along @ turn).std(0)
    step = torch.where(deviation > 0, deviation * (REACH / STEPS), 1.0)
    vectors = (span @ turn) * step / root[:, None]
    # Directions have no sign of their own; kept in 16 bits, and used as they are kept.
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = (vectors * largest.sign()).half().float()
    return Basis(bias.float(), weights.float(), vectors)


def _means(blocks: Blocks) -> tuple[Tensor, Tensor, int]:
    """Shapes: returns the mean of centred logits and of probabilities, (C,) each."""
    logits: Tensor | None = None
    probability: Tensor | None = None
    count = 0
    for block in blocks():
        centred, probs = _centred(block).sum(0), block.float().softmax(1).sum(0)
        logits = centred if logits is None else logits + centred
        probability = probs if probability is None else probability + probs
        count += len(block)
    assert logits is not None
    assert probability is not None
    if not bool(logits.isfinite().all()):
        raise TargetError(
            "targets.tail: a logit of the teacher is NaN or infinite among the positions that the "
            "tail's shape is learned from. Run the teacher in float32, or look at its inputs."
        )
    return logits / count, probability / count, count


def _along(scaled: Blocks, span: Tensor) -> Tensor:
    return torch.cat([block @ span for block in scaled()])


def _centred(block: Tensor) -> Tensor:
    logits = block.float()
    return logits - logits.mean(1, keepdim=True)


def encode_codes(basis: Basis, logits: Tensor) -> NDArray[np.uint8]:
    """Find each position's steps along the basis, two in a byte, the first in the low half.

    Shapes: logits (P, C); returns (P, ceil(r / 2)).
    """
    matrix, offset = basis.to(logits.device).projection
    steps = (logits.float() @ matrix - offset).round_().clamp_(-STEPS, STEPS)
    nibbles = (steps + (STEPS + 1)).to(torch.uint8)  # 1 to 15
    if basis.rank % 2:
        nibbles = torch.nn.functional.pad(nibbles, (0, 1), value=STEPS + 1)
    packed: NDArray[np.uint8] = (nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)).cpu().numpy()
    return packed


def decode_codes(packed: NDArray[np.generic], rank: int) -> Tensor:
    """Read the steps back. Shapes: packed (P, ceil(r / 2)); returns (P, r), float32."""
    codes = torch.from_numpy(packed.astype(np.int16))
    both = torch.stack([codes & 15, codes >> 4], 2).flatten(1)[:, :rank]
    return both.sub_(STEPS + 1).float()


def shape_logits(basis: Basis, codes: Tensor) -> Tensor:
    """Rebuild logits, up to a number of each position's own. Shapes: codes (P, r); gives (P, C)."""
    # In float32 whatever autocast says: three digits of a logit are not enough of a tail.
    with torch.autocast(codes.device.type, enabled=False):
        return torch.addmm(basis.bias, codes, basis.vectors.T)


def packed_size(rank: int) -> int:
    """Count the bytes of a position's codes."""
    return math.ceil(rank / 2)
