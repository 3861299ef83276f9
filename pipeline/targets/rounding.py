"""Kept logits in 8 bits each, with a range a position: half of what float16 takes.

Codes are equally far apart and at most half a step wrong, so that the divergence from what they
were is at most D^2 / 8 nats at T = 1, D being a step: the range over 254.
"""

import torch
from torch import Tensor

# The highest code is a class without mass; the others share out the range.
NO_MASS, HIGHEST = 255, 254
# A class farther below the best one is kept as without mass: at T = 4 it has e^-32 of the best's.
FARTHEST = 128.0
# The lowest float16. A class this far below the best one has no mass at any useful temperature.
LOWEST_LOGIT = -65504.0


def pack_logits(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes: logits (P, K), at most 0; returns codes (P, K), uint8, and ranges (P,), float16."""
    has_mass = logits >= -FARTHEST
    widest = -logits.where(has_mass, 0.0).amin(1) if logits.shape[1] else logits.new_zeros(0)
    ranges = widest.float().half()
    # Rounded up, so that the farthest class is not out of range.
    ranges = torch.where(ranges.float() < widest.float(), _next(ranges), ranges)
    ranges = ranges.clamp(min=torch.finfo(torch.float16).tiny)
    step = ranges.to(logits.dtype) / HIGHEST
    codes = (logits / -step[:, None]).round_().clamp_(0, HIGHEST)
    return codes.masked_fill_(~has_mass, NO_MASS).to(torch.uint8), ranges


def unpack_logits(codes: Tensor, ranges: Tensor) -> Tensor:
    """Shapes: codes (P, K), uint8; ranges (P,), float16; returns (P, K), float32."""
    logits = codes.float() * (ranges.float() / -HIGHEST)[:, None]
    return logits.masked_fill_(codes == NO_MASS, LOWEST_LOGIT)


def _next(halves: Tensor) -> Tensor:
    """Give the next larger float16 of numbers that are not negative."""
    return (halves.view(torch.int16) + 1).view(torch.float16)
