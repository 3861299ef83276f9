"""The student's distribution against ground truth; knows nothing of teachers."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, nll_loss

from pipeline.errors import TargetError
from pipeline.losses.average import at_least_float32, scaled, share
from pipeline.losses.few.labels import compare_labels
from pipeline.losses.term import Answer, Block, Few, Term, apply, cut, in_blocks
from pipeline.targets import (
    FEW_CLASSES,
    Bounded,
    MixedLabels,
    PseudoLabels,
    bounded,
    constants,
    make_exps,
    one_hot,
)

UNLABELLED = -1
Labels = Tensor | MixedLabels | Bounded


def hard_labels(
    student_logits: Tensor, labels: Labels, *, count: Tensor | float | None = None
) -> Tensor:
    """Raise the student's probability of the labels; positions labelled -1 are left alone.

    Cross-entropy, averaged over labelled positions (over `count`, if given). Of mixed labels each
    counts by its share; a position one of whose labels is -1 is unlabelled.

    Shapes: student_logits (P, C), labels (P,); returns ().
    Units:  nats.
    Raises: TargetError if a label is not a class of the student.
    Source: of mixed labels, Zhang et al. 2018, arXiv:1710.09412, section 2.
    """
    total = sum_hard_labels(student_logits, labels)
    return scaled(total, share(count_labelled(labels) if count is None else count))


def sum_hard_labels(student_logits: Tensor, labels: Labels) -> Tensor:
    """Add up what `hard_labels` averages. Shapes: as there."""
    known = bounded(labels)
    if isinstance(known.labels, MixedLabels):
        return apply(hard_labels_term(known, 1.0), student_logits)
    check_labels(student_logits, known)
    return cross_entropy(
        at_least_float32(student_logits), plain(known), ignore_index=UNLABELLED, reduction="sum"
    )


def hard_labels_term(labels: Labels, count: Tensor | float | None = None) -> Term:
    """Make the loss of some labels, for logits that come later. Shapes: labels (P,)."""
    known = bounded(labels)
    if isinstance(known.labels, MixedLabels):
        return _mixed_term(known.labels, known, count)

    def compare(block: Block) -> Answer:
        check_classes(known, block.logits.shape[1])
        return surprise(block, cut(plain(known), block.places), all_known=known.low > UNLABELLED)

    def compare_few(log_probs: NDArray[np.float32]) -> Few:
        check_classes(known, log_probs.shape[1])
        return compare_labels(log_probs, plain(known).numpy())

    factor = share(count_labelled(known) if count is None else count)
    few = compare_few if known.low > UNLABELLED else None
    return Term(compare, factor, len(known), few=few)


def plain(known: Bounded) -> Tensor:
    """Give labels of which there is one a position. Shapes: returns (P,)."""
    labels = known.labels
    assert not isinstance(labels, MixedLabels), "two labels a position"
    return labels.labels if isinstance(labels, PseudoLabels) else labels


def surprise(block: Block, labels: Tensor, *, all_known: bool) -> Answer:
    """Give cross-entropy and its derivative by the logits; both are 0 where a label is -1.

    Shapes: labels (p,).
    """
    at = labels if all_known else labels.clamp(min=0)
    is_few = block.logits.shape[1] < FEW_CLASSES
    answer = _few(block.logits, at) if is_few else _many(block, at)
    if all_known:
        return answer
    known = labels != UNLABELLED
    # What is infinite does not become 0 by weighing 0.
    return answer.weighed(known)._replace(value=torch.where(known, answer.value, 0.0))


def _few(logits: Tensor, at: Tensor) -> Answer:
    log_probs = logits.log_softmax(1)
    value = nll_loss(log_probs, at, reduction="none")
    certain = one_hot(logits.shape[1], logits).index_select(0, at)
    return Answer(value, log_probs.exp_().sub_(certain))


def _many(block: Block, at: Tensor) -> Answer:
    own = block.logits.gather(1, at[:, None])
    exps, sums, log_sums = make_exps(block.logits, overwrite=block.spare, largest=block.largest)
    assert sums is not None
    taken = constants((-1.0,), exps).expand(len(at), 1)
    return Answer((log_sums - own)[:, 0], exps, sums.reciprocal_(), at[:, None], taken)


def _mixed_term(labels: MixedLabels, known: Bounded, count: Tensor | float | None) -> Term:
    first, second = labels.first, labels.second
    if known.low <= UNLABELLED:
        both = _labelled(labels)
        first, second = first.where(both, UNLABELLED), second.where(both, UNLABELLED)
    pairs = ((first, labels.share), (second, 1 - labels.share))
    terms = [
        (hard_labels_term(Bounded(each, known.low, known.high), 1.0), part) for each, part in pairs
    ]

    def compare(block: Block) -> Answer:
        (one, own), (other, others) = terms
        first = one.rule(block._replace(spare=False)).weighed(cut(own, block.places))
        second = other.rule(block).weighed(cut(others, block.places))
        return Answer(first.value + second.value, first.derivative().add_(second.derivative()))

    count = count_labelled(known) if count is None else count
    return Term(in_blocks(compare), share(count), len(labels))


def count_labelled(labels: Labels, **_: object) -> Tensor | int:
    """Count the positions that have a label. Shapes: labels (P,); returns ()."""
    if isinstance(labels, Bounded):
        if labels.low > UNLABELLED:
            return len(labels)
        found = labels.labels
        labels = found if isinstance(found, MixedLabels) else plain(labels)
    return _labelled(labels).sum()


def _labelled(labels: Tensor | MixedLabels) -> Tensor:
    if isinstance(labels, MixedLabels):
        return (labels.first != UNLABELLED) & (labels.second != UNLABELLED)
    return labels != UNLABELLED


def check_labels(student_logits: Tensor, known: Bounded, loss: str = "hard_labels") -> None:
    """Refuse labels that are not classes; `loss` names the one that has them.

    Shapes: student_logits (P, C), labels (P,).

    Raises: TargetError naming the first five.
    """
    labels = plain(known)
    if labels.shape != student_logits.shape[:1]:
        raise TargetError(
            f"{loss}: labels have shape {tuple(labels.shape)}; the student's logits are "
            f"{tuple(student_logits.shape)}, so {(len(student_logits),)} is needed. Give one "
            "label a position, -1 where there is none."
        )
    check_classes(known, student_logits.shape[1], loss)


def check_classes(known: Bounded, class_count: int, loss: str = "hard_labels") -> None:
    """Refuse labels that are not among so many classes. Shapes: labels (P,).

    Raises: TargetError naming the first five.
    """
    if known.high >= class_count or known.low < UNLABELLED:
        labels = plain(known)
        wrong = (labels >= class_count) | (labels < UNLABELLED)
        if wrong.any():  # and not others that have the same bounds
            places = wrong.nonzero().flatten()
            raise TargetError(_describe(loss, labels[wrong], places, class_count))


def _describe(loss: str, values: Tensor, positions: Tensor, class_count: int) -> str:
    pairs = zip(positions[:5].tolist(), values[:5].tolist(), strict=True)
    shown = ", ".join(f"{value} at position {position}" for position, value in pairs)
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return (
        f"{loss}: {len(values)} labels are not classes of the student: {shown}{more}; allowed "
        f"are 0 to {class_count - 1}, and -1 for none. Give the student the classes of the data."
    )
