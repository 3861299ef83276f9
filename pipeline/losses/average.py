"""How every loss is averaged: exactly, whatever share of the global batch is at hand."""

import torch
from torch import Tensor


def at_least_float32(logits: Tensor) -> Tensor:
    """Widen half precision, in which a sum over classes is worth little."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def share(count: Tensor | float) -> Tensor | float:
    """What a position counts of so many; of none at all, whatever is finite.

    Shapes: count (); returns ().
    """
    # A tensor of its own would be in float32, whatever it multiplies.
    wide = count.double() if isinstance(count, Tensor) else count
    return 1 / (wide + (wide == 0))


def scaled(total: Tensor, factor: Tensor | float) -> Tensor:
    """Multiply a sum by a factor of any precision, and keep its own. Shapes: all ()."""
    return (total * factor).to(total.dtype)
