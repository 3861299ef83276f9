"""A tail in 16 bits a number: fine where it decides something, coarse where nothing is left.

What a tail's mass depends on is K(b) against log S(b), the same of the kept classes; near 0 it
is known to 0.0006, at 20, where either side is 2e-9 of the whole, to 0.003.
"""

import torch
from torch import Tensor

# Codes are equally far apart in asinh(x / WIDTH): as if linear up to 4 nats, logarithmic beyond.
WIDTH = 4.0
# asinh(65504 / 4) is 10.4, and no relative logit is below -65504.
CODES_A_UNIT = 32767 / 10.5


def pack_tail(tail: Tensor, logits: Tensor, nodes: tuple[float, ...]) -> Tensor:
    """Shapes: tail (P, M), logits (P, K) as they are kept; returns (P, M), int16."""
    relative = tail - _beside(tail, logits, nodes)
    codes = (relative / WIDTH).asinh() * CODES_A_UNIT
    return codes.round_().clamp_(-32767, 32767).to(torch.int16)


def unpack_tail(codes: Tensor, logits: Tensor, nodes: tuple[float, ...]) -> Tensor:
    """Shapes: codes (P, M), logits (P, K) as they are kept; returns (P, M), float32."""
    relative = (codes.float() / CODES_A_UNIT).sinh_() * WIDTH
    return relative + _beside(relative, logits, nodes)


def _beside(tail: Tensor, logits: Tensor, nodes: tuple[float, ...]) -> Tensor:
    """What each number is measured from: log S(b) at a node, 0 for slopes and without classes."""
    beside = torch.zeros_like(tail)
    if logits.shape[1]:
        at = torch.tensor(nodes, dtype=tail.dtype, device=tail.device)
        powers = logits.to(tail.dtype)[:, None] * at[:, None]  # (P, nodes, K)
        beside[:, : len(nodes)] = powers.logsumexp(2)
    return beside
