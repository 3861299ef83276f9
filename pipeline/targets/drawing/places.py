"""Places in a cumulative sum over many classes, where the sum itself is not to be had.

No cumulative sum of CUDA promises the same bits each time, and one on the CPU would have to wait
for every logit; sums of blocks do promise it, and a place lies in one block of one block.
"""

import torch
from torch import Tensor


def find_places(widths: Tensor, numbers: Tensor) -> Tensor:
    """Find the first class at which the summed widths are above a share of their total.

    What has no width is never found.

    Shapes: widths (P, C), numbers (P, D), in [0, 1); returns (P, D), int64.
    """
    side = _cube_root(widths.shape[1])
    spare = side**3 - widths.shape[1]
    cube = torch.nn.functional.pad(widths, (0, spare)).view(len(widths), side, side, side)
    rows = torch.arange(len(widths), device=widths.device)[:, None]
    sums = cube.sum((2, 3), dtype=torch.float64)[:, None]  # (P, 1, side)
    ends = _add_up(sums)
    first, rest = _find(ends, numbers.to(ends) * ends[..., -1])
    squares = cube[rows, first]  # (P, D, side, side)
    second, rest = _find(_add_up(squares.sum(3, dtype=torch.float64)), rest)
    lines = squares.gather(2, second[:, :, None, None].expand(-1, -1, 1, side))[:, :, 0]
    third, _ = _find(_add_up(lines.double()), rest)
    return (first * side + second) * side + third


def _cube_root(count: int) -> int:
    """Give the smallest number whose cube is not below another."""
    side: int = round(count ** (1 / 3))
    return side if side**3 >= count else side + 1


def _add_up(widths: Tensor) -> Tensor:
    """Sum from first to last, each with all before it. Shapes: (..., n), returns alike."""
    ends = widths.clone()
    for place in range(1, ends.shape[-1]):
        ends[..., place] += ends[..., place - 1]
    return ends


def _find(ends: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Find the first end above what is wanted, and what that is beyond the end before.

    Shapes: ends (P, D, n) or (P, 1, n), ascending; wanted (P, D); returns (P, D) twice.
    """
    total = ends[..., -1]
    # A block's sum is rounded otherwise than the sum of its parts.
    wanted = wanted.minimum(total.nextafter(torch.zeros_like(total)))
    place = (ends <= wanted[..., None]).sum(-1)  # (P, D)
    begins = torch.nn.functional.pad(ends, (1, 0)).expand(*wanted.shape, -1)
    return place, wanted - begins.gather(-1, place[..., None])[..., 0]
