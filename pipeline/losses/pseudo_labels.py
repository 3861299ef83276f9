"""The student's distribution against the classes that a teacher called certain.

Apart from `hard_labels`, so that truth and belief have a weight each and are averaged apart.
"""

from torch import Tensor

from pipeline.losses.average import share
from pipeline.losses.hard_labels import UNLABELLED, check_classes, check_labels, plain, surprise
from pipeline.losses.term import Answer, Block, Term, apply, cut
from pipeline.targets import Bounded, PseudoLabels, bounded


def pseudo_labels(
    student_logits: Tensor, labels: PseudoLabels | Bounded, *, count: Tensor | float | None = None
) -> Tensor:
    """Raise the student's probability of the pseudo-labels; positions without one are left alone.

    Cross-entropy, each position as much as it weighs, over the sum of the weights (over `count`, if
    given).

    Shapes: student_logits (P, C), labels of P positions; returns ().
    Units:  nats.
    Raises: TargetError if a pseudo-label is not a class of the student.
    Source: Lee 2013, Pseudo-Label, ICML workshop, equation 15; weights as Xie et al. 2020,
        arXiv:1911.04252, section 2 (soft pseudo-labels are the loss soft_targets).
    """
    known = bounded(labels)
    check_labels(student_logits, known, "pseudo_labels")
    return apply(pseudo_labels_term(known, count), student_logits)


def pseudo_labels_term(labels: PseudoLabels | Bounded, count: Tensor | float | None = None) -> Term:
    """Make the loss of some pseudo-labels, for logits that come later."""
    known = bounded(labels)

    def compare(block: Block) -> Answer:
        check_classes(known, block.logits.shape[1], "pseudo_labels")
        here = cut(plain(known), block.places)
        answer = surprise(block, here, all_known=known.low > UNLABELLED)
        return answer.weighed(cut(_weights(known), block.places))

    return Term(compare, share(count_pseudo(known) if count is None else count), len(known))


def count_pseudo(labels: PseudoLabels | Bounded, **_: object) -> Tensor:
    """Count the positions that have a pseudo-label, each as it weighs. Shapes: returns ()."""
    known, weights = bounded(labels), _weights(bounded(labels))
    return (weights if known.low > UNLABELLED else weights[plain(known) != UNLABELLED]).sum()


def _weights(known: Bounded) -> Tensor:
    assert isinstance(known.labels, PseudoLabels)
    return known.labels.weights
