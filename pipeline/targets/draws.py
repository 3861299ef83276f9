"""Random draws from what was left out: unbiased where a cut distribution never is.

Classes are drawn with replacement in proportion to their softened probability among the left-out
ones. Each draw's random number belongs to a sample, a view and a position, so it is the same
whatever the batch, the worker or the order.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.keyed import draw_uniform, view_key
from pipeline.targets.drawing.places import find_places

# Masks of the same view are drawn by another key.
PURPOSE = b"targets"


def uniforms(
    seed: int, samples: Sequence[tuple[str, int]], counts: Sequence[int], draws: int
) -> NDArray[np.float64]:
    """Give the random numbers of every position of some samples, each an id and a view.

    Shapes: counts (B,), the positions of each sample; returns (P, D), above 0 and below 1.
    """
    keys = [view_key(seed, sample_id, view, PURPOSE) for sample_id, view in samples]
    drawn = draw_uniform(keys, max(counts, default=0) * draws)
    each = [row[: count * draws] for row, count in zip(drawn, counts, strict=True)]
    return np.concatenate([np.empty(0), *each]).reshape(-1, draws)


def pack_draws(drawn: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keep each drawn class once, zeros behind, and a bit a draw: whether a class begins there.

    Shapes: drawn and logits (P, D), equal classes side by side; returns (P, D) twice, and the bits,
        (P, ceil(D / 8)), uint8, the first of a byte the lowest.
    """
    is_new = torch.ones_like(drawn, dtype=torch.bool)
    is_new[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    # What is no beginning goes behind what is one, each in its order.
    order = (~is_new).to(torch.uint8).sort(dim=1, stable=True).indices
    there = is_new.gather(1, order)
    classes = drawn.gather(1, order).masked_fill_(~there, 0)
    kept = logits.gather(1, order).masked_fill_(~there, 0)
    bits = torch.from_numpy(np.packbits(is_new.cpu().numpy(), axis=1, bitorder="little"))
    return classes, kept, bits.to(drawn.device)


def unpack_draws(kept: Tensor, bits: Tensor) -> Tensor:
    """Repeat what was kept once. Shapes: kept (P, D), bits (P, ceil(D / 8)); returns (P, D)."""
    draws = torch.arange(kept.shape[1], device=bits.device)
    is_new = (bits[:, draws // 8] >> (draws % 8)) & 1  # (P, D)
    return kept.gather(1, is_new.long().cumsum(1) - 1)


def draw_classes(relative: Tensor, classes: Tensor, node: float, numbers: Tensor) -> Tensor:
    """Draw left-out classes in proportion to exp(node x), by descending logit.

    Shapes: relative (P, C), classes (P, K), what is not left out; numbers (P, D), in [0, 1);
        returns (P, D), int64.
    """
    left_out = relative.scatter(1, classes, -math.inf)
    left_out -= left_out.amax(1, keepdim=True)
    widths = left_out.mul_(node).exp_()
    drawn = (
        _search(widths, numbers) if widths.device.type == "cpu" else find_places(widths, numbers)
    )
    ordered = drawn.sort(1).values
    order = relative.gather(1, ordered).sort(dim=1, descending=True, stable=True).indices
    return ordered.gather(1, order)


def _search(widths: Tensor, numbers: Tensor) -> Tensor:
    """Do as `find_places`, by a cumulative sum. Shapes: (P, C) and (P, D); returns (P, D)."""
    # In float64, for a class of 1e-7 would be lost in the sum of what comes before it.
    ends = widths.cumsum(1, dtype=torch.float64)
    # Nothing of no width can be hit, so a kept class is never drawn.
    total = ends[:, -1:]
    places = (numbers * total).minimum(total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(ends, places, right=True)
