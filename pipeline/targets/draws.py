"""Random draws from what was left out: unbiased where a cut distribution never is.

Classes are drawn with replacement in proportion to their softened probability among the left-out
ones. Each draw's random number belongs to a sample, a view and a position, so it is the same
whatever the batch, the worker or the order.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def uniforms(
    seed: int, samples: Sequence[tuple[str, int]], counts: Sequence[int], draws: int
) -> NDArray[np.float64]:
    """Give the random numbers of every position of some samples, each an id and a view.

    Shapes: counts (B,), the positions of each sample; returns (P, D), in [0, 1).
    Source: Philox, a counter-based generator: Salmon et al. 2011, "Parallel random numbers: as easy
        as 1, 2, 3".
    """
    each = [
        np.random.Generator(np.random.Philox(key=_key(seed, *sample))).random((count, draws))
        for sample, count in zip(samples, counts, strict=True)
    ]
    return np.concatenate([np.empty((0, draws)), *each])


def _key(seed: int, sample_id: str, view: int) -> int:
    named = f"{seed} {view} {sample_id}".encode()
    return int.from_bytes(hashlib.blake2b(named, digest_size=16).digest(), "little")


def draw_classes(relative: Tensor, classes: Tensor, node: float, numbers: Tensor) -> Tensor:
    """Draw left-out classes in proportion to exp(node x), by descending logit.

    Shapes: relative (P, C), classes (P, K), what is not left out; numbers (P, D), in [0, 1);
        returns (P, D), int64.
    """
    left_out = relative.scatter(1, classes, -math.inf)
    left_out -= left_out.amax(1, keepdim=True)
    # In float64: a class of 1e-7 would be lost in the sum of what comes before it.
    ends = left_out.mul_(node).exp_().cumsum(1, dtype=torch.float64)  # (P, C)
    # Nothing of no width can be hit, so a kept class is never drawn.
    total = ends[:, -1:]
    places = (numbers.to(ends.device) * total).minimum(total.nextafter(torch.zeros_like(total)))
    drawn = torch.searchsorted(ends, places, right=True)
    ordered = drawn.sort(1).values
    order = relative.gather(1, ordered).sort(dim=1, descending=True, stable=True).indices
    return ordered.gather(1, order)
