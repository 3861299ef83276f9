"""How good a model is on held-out data, and where it differs from its teacher.

One pass over the data; what is kept of it does not grow with the rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any

import torch
from torch import Tensor

from pipeline.card.acceptance import accepted
from pipeline.losses.soft_targets import soft_targets_term
from pipeline.models import Network
from pipeline.stream import Batch
from pipeline.targets import Targets, soften
from pipeline.training.evaluation import Ask, Metrics, Seen, evaluate

# Per class nothing is said of vocabularies.
MOST_CLASSES = 1000
SHOWN_DISAGREEMENTS, SHOWN_CLASSES = 24, 4
# Name and probability of a model's first choices.
Choices = list[tuple[str, float]]
NameOf = Callable[[int], str]


@dataclass(frozen=True)
class Quality:
    """What one pass has found; `count` and `right` are of each class, empty where not counted."""

    metrics: Metrics
    labelled: int
    # Those that a teacher said something of.
    positions: int
    # The least and the most it may be; None without a teacher, or where no text is written.
    acceptance: tuple[float, float] | None
    # Of the labelled positions of which the teacher's first choice is known.
    teacher_accuracy: float | None
    count: tuple[int, ...]
    right: tuple[int, ...]
    disagreements: tuple[dict[str, Any], ...]


@dataclass
class _Watch:
    """Counts as positions go by; tensors of so many classes as the model has, once it is known."""

    name_of: NameOf
    counts_classes: bool
    least: float = 0.0
    most: float = 0.0
    positions: int = 0
    labelled: int = 0
    teacher_asked: int = 0
    teacher_right: int = 0
    count: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    right: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    apart: list[dict[str, Any]] = field(default_factory=list)

    def look(self, seen: Seen) -> None:
        """Count some positions."""
        self.labelled += int((seen.labels >= 0).sum())
        if self.counts_classes and seen.logits.shape[1] <= MOST_CLASSES:
            self._count_classes(seen)
        if isinstance(seen.said, Targets):
            self.positions += len(seen.logits)
            self.teacher_asked += int((seen.labels >= 0).sum())
            self.teacher_right += int((seen.said.top_classes() == seen.labels).sum())
            if not self.counts_classes:
                least, most = accepted(seen.logits, seen.said)
                self.least, self.most = self.least + least, self.most + most
            else:
                self.apart = nlargest(
                    SHOWN_DISAGREEMENTS,
                    [*self.apart, *_disagreements(seen, seen.said, self.name_of)],
                    key=lambda each: each["kl"],
                )

    def _count_classes(self, seen: Seen) -> None:
        classes = seen.logits.shape[1]
        known = seen.labels >= 0
        labels = seen.labels[known].cpu()
        is_right = (seen.logits.argmax(1) == seen.labels)[known].cpu()
        found = [torch.bincount(each, minlength=classes) for each in (labels, labels[is_right])]
        if not len(self.count):
            self.count, self.right = torch.zeros_like(found[0]), torch.zeros_like(found[0])
        self.count, self.right = self.count + found[0], self.right + found[1]


def judge(
    network: Network,
    batches: Iterable[Batch],
    device: torch.device,
    *,
    ask: Ask | None = None,
    name_of: NameOf = str,
) -> Quality:
    """Measure a model; the teacher is what batches come with, or who answers `ask`.

    `name_of` names a class. Per class, and sample by sample, only labels of samples are told apart.
    """
    watch = _Watch(name_of, network.task == "label")
    metrics = evaluate(network, batches, device, ask=ask, look=watch.look)
    n = watch.positions
    drafts = n and network.task == "next_token"
    acceptance = (watch.least / n, watch.most / n) if drafts else None
    asked = watch.teacher_asked
    return Quality(
        metrics=metrics,
        labelled=watch.labelled,
        positions=n,
        acceptance=acceptance,
        teacher_accuracy=watch.teacher_right / asked if asked else None,
        count=tuple(watch.count.tolist()),
        right=tuple(watch.right.tolist()),
        disagreements=tuple(watch.apart),
    )


def ask_live(teacher: Network) -> Ask:
    """Let a teacher answer now what a cache would say, with all classes kept, unrounded."""

    def ask(inputs: Tensor) -> Callable[[slice], Targets]:
        output = teacher(inputs)

        def said(places: slice) -> Targets:
            logits = output.head(output.states[places])  # (p, C)
            return Targets(logits.shape[1], logits - logits.amax(1, keepdim=True))

        return said

    return ask


def _disagreements(seen: Seen, said: Targets, name_of: NameOf) -> list[dict[str, Any]]:
    """List the samples whose first choice is another one than the teacher's."""
    differs = seen.logits.argmax(1) != said.top_classes()
    if not bool(differs.any()):
        return []
    logits, said = seen.logits[differs], said[differs]
    values = soft_targets_term(said).compare(logits, slice(0, len(logits))).value
    places = (differs.nonzero().flatten() + seen.places.start).tolist()
    labels = seen.labels[differs].tolist()
    theirs, own = _teacher_choices(said, name_of), _choices(logits.softmax(1), None, name_of)
    return [
        {
            "id": seen.batch.ids[place],
            "label": None if label < 0 else name_of(label),
            "kl": kl,
            "answers": {"teacher": teacher, "student": student},
        }
        for place, label, kl, teacher, student in zip(
            places, labels, values.tolist(), theirs, own, strict=True
        )
    ]


def _teacher_choices(said: Targets, name_of: NameOf) -> list[Choices]:
    probs = soften(said, 1.0).log_probs.exp()
    if said.is_spare is not None:
        probs = probs.masked_fill(said.is_spare, 0)
    return _choices(probs, said.classes, name_of)


def _choices(probs: Tensor, classes: Tensor | None, name_of: NameOf) -> list[Choices]:
    top = probs.topk(min(SHOWN_CLASSES, probs.shape[1]), dim=1)
    chosen = top.indices if classes is None else classes.gather(1, top.indices)
    return [
        _named(row, values, name_of)
        for row, values in zip(chosen.tolist(), top.values.tolist(), strict=True)
    ]


def _named(classes: Sequence[int], values: Sequence[float], name_of: NameOf) -> Choices:
    return [(name_of(each), value) for each, value in zip(classes, values, strict=True) if value]
