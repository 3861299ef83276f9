"""How every loss is averaged: exactly, whatever share of the global batch is at hand."""

import torch
from torch import Tensor


def at_least_float32(logits: Tensor) -> Tensor:
    """Widen half precision, in which a sum over classes is worth little."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def average(total: Tensor, count: Tensor | float) -> Tensor:
    """Divide by the number of positions; no positions at all give 0 with zero gradient.

    Shapes: total (), count ().
    """
    return total / (count + (count == 0))
