"""How often a student's token would be accepted where it drafts for its teacher.

In speculative decoding a draft is accepted with probability min(1, p / q), so a student's drafts
are accepted as often as the two distributions overlap. It knows targets and logits.

Source: Leviathan, Kalman and Matias 2023, arXiv:2211.17192, corollary 3.6.
"""

import torch
from torch import Tensor

from pipeline.targets import Targets, low_rank_logits, soften, weigh_draws


def accepted(logits: Tensor, targets: Targets) -> tuple[float, float]:
    """Add up sum(min(p, q)) over positions, at T = 1; gives the least and the most it may be.

    The two are one where all classes were kept, or the shape of the tail, which is then taken as it
    was rebuilt. Draws from the tail speak for it without bias. Of a tail of which nothing is known
    but its mass, the overlap is between none and all that its two masses allow.

    Shapes: logits (P, C), of the student, or wider; targets of P positions.
    """
    student = logits.softmax(1)  # (P, C)
    if targets.tail is None:
        teacher = _dense(targets)
        return _both(_overlap(teacher, student))
    if targets.codes is not None:
        return _both(_overlap(low_rank_logits(targets, 1.0).softmax(1), student))
    kept, soft = targets.classes, soften(targets, 1.0)
    assert kept is not None
    assert soft.log_tail is not None
    spare, probs = targets.is_spare, soft.log_probs.exp()
    chosen = student.gather(1, kept)  # (P, K)
    if spare is not None:  # places that repeat a class count once
        chosen, probs = chosen.masked_fill(spare, 0), probs.masked_fill(spare, 0)
    head = float(torch.minimum(probs, chosen).sum())
    if targets.drawn is not None:
        weights, log_probs = weigh_draws(targets, 1.0)
        ratio = student.gather(1, targets.drawn) / log_probs.exp()
        return _both(head + float((weights * ratio.clamp_(max=1)).sum()))
    rest = (1 - chosen.sum(1)).clamp_(min=0)  # (P,)
    return head, head + float(torch.minimum(soft.log_tail.exp(), rest).sum())


def _dense(targets: Targets) -> Tensor:
    probs = targets.logits.softmax(1)
    if targets.classes is None:
        return probs
    return torch.zeros_like(probs).scatter_(1, targets.classes, probs)


def _overlap(teacher: Tensor, student: Tensor) -> float:
    return float(torch.minimum(teacher, student[:, : teacher.shape[1]]).sum())


def _both(total: float) -> tuple[float, float]:
    return total, total
