"""Which classes of a position are kept: one pure function a selection.

Knows logits only; ties are settled here, so that the same logits keep the same classes everywhere.
"""

import torch
from torch import Tensor

NO_CLASS = 2**31 - 1  # comes after every class that a cache can hold
# Of so few classes a stable sort is the fastest way: 0.14 ms, not 0.66, for 4,096 times 10.
SORTED_CLASSES = 64
# Of so many classes and more the largest are looked for in groups, if there are so many times as
# many groups as are wanted: the 65 largest of 50,000 in 39 us a position, not 73.
GROUPED_CLASSES, GROUP, FEWEST_GROUPS = 2048, 8, 4


def select_top_k(logits: Tensor, k: int) -> Tensor:
    """Choose the k largest classes; of equal logits the smaller class comes first.

    Shapes: logits (P, C); returns (P, K), int64, by descending logit.
    """
    if logits.shape[1] <= SORTED_CLASSES:
        return logits.sort(dim=1, descending=True, stable=True).indices[:, :k]
    values, classes = find_largest(logits, min(k + 1, logits.shape[1]))
    # topk leaves open which of several equal logits it takes, and in which order.
    tied = values[:, k - 1] == values[:, -1] if values.shape[1] > k else values.new_zeros(0)
    classes = classes[:, :k]
    if bool(tied.any()):
        classes[tied] = _settle_boundary(logits[tied], values[tied, :k], classes[tied])
    classes = classes.sort(1).values
    order = logits.gather(1, classes).sort(dim=1, descending=True, stable=True).indices
    return classes.gather(1, order)  # (P, K)


def find_largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest logits, the largest first, and any classes that have them.

    Of many classes the k groups with the largest maxima are looked for, and then among them: no
    other group can have a larger logit than k of theirs.

    Shapes: logits (P, C); returns (P, K) twice.
    """
    groups = logits.shape[1] // GROUP
    if logits.shape[1] < GROUPED_CLASSES or groups < FEWEST_GROUPS * k:
        values, classes = logits.topk(k, dim=1)
        return values, classes
    # A class and those that follow it at equal distances, for maxima of neighbours take longer.
    best = logits[:, : groups * GROUP].view(-1, GROUP, groups).amax(1)  # (P, groups)
    chosen = find_largest(best, k)[1]  # (P, K)
    steps = torch.arange(0, groups * GROUP, groups, device=logits.device)
    among = (chosen[:, None] + steps[:, None]).flatten(1)  # (P, GROUP * K)
    if groups * GROUP < logits.shape[1]:  # less than a group is left
        left = torch.arange(groups * GROUP, logits.shape[1], device=logits.device)
        among = torch.cat([among, left.expand(len(logits), -1)], 1)
    values, places = logits.gather(1, among).topk(k, dim=1)
    return values, among.gather(1, places)


def count_top_p(relative: Tensor, classes: Tensor, p: float, k_min: int) -> Tensor:
    """Count the fewest of the largest classes that reach the mass p, if they can.

    Shapes: relative (P, C), classes (P, K), by descending logit; returns (P, 1), k_min to K.
    """
    total = relative.logsumexp(1, keepdim=True)
    # Summed on the CPU: no cumulative sum of CUDA gives the same bits each time.
    shares = (relative.gather(1, classes) - total).double().exp()
    reached = shares.cpu().cumsum(1).to(shares.device)  # (P, K)
    short = (reached[:, :-1] < p).sum(1, keepdim=True)
    return (short + 1).clamp(min=k_min)


def _settle_boundary(logits: Tensor, values: Tensor, classes: Tensor) -> Tensor:
    """Among the classes as large as the last kept one, keep the smallest.

    Shapes: logits (P, C); values and classes (P, K), by descending value; returns (P, K).
    """
    k = classes.shape[1]
    lowest = values[:, -1:]
    every = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
    equal = torch.where(logits == lowest, every, NO_CLASS)  # (P, C)
    equal = equal.topk(k, dim=1, largest=False).values.long()  # (P, K), ascending
    above = (values > lowest).sum(1, keepdim=True)
    place = torch.arange(k, device=logits.device).expand_as(classes)
    return torch.where(place < above, classes, equal.gather(1, (place - above).clamp(min=0)))
