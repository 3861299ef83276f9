"""How good a network is on held-out data, and how close to its teacher where a cache says so."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pipeline.losses import soft_targets
from pipeline.models import Network
from pipeline.stream import Batch
from pipeline.targets import Targets

Sums = dict[str, tuple[float, int]]


@torch.no_grad()
def evaluate(network: Network, batches: Iterable[Batch], device: torch.device) -> dict[str, float]:
    """Accuracy and negative log-likelihood over labelled samples; divergence from the teacher.

    Units: accuracy and teacher_agreement 0 to 1; nll and teacher_kl (at temperature 1) in nats.
    Source: teacher_kl is KL(teacher || student) over the classes that were kept and one bucket for
    the rest.
    """
    was_training = network.training
    network.eval()
    sums: Sums = {}
    for batch in batches:
        logits = network(batch.inputs.to(device)).logits.float()
        _add(sums, _label_sums(logits, batch.labels.to(device)))
        if batch.targets is not None:
            _add(sums, _teacher_sums(logits, batch.targets.to(device)))
    network.train(was_training)
    return {name: total / count for name, (total, count) in sums.items()}


def better_by(name: str) -> Callable[[dict[str, float], dict[str, float]], bool]:
    """Compare two evaluations by one metric; ties keep the older one."""
    sign = 1.0 if name == "accuracy" else -1.0
    return lambda new, best: sign * new[name] > sign * best[name]


def _label_sums(logits: Tensor, labels: Tensor) -> Sums:
    """Shapes: logits (B, C), labels (B,) with -1 for none."""
    labelled = labels >= 0
    count = int(labelled.sum())
    if not count:
        return {}
    logits, labels = logits[labelled], labels[labelled]
    right = float((logits.argmax(-1) == labels).sum())
    nll = float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return {"accuracy": (right, count), "nll": (nll, count)}


def _teacher_sums(logits: Tensor, targets: Targets) -> Sums:
    count = len(targets)
    top = targets.top_classes()
    return {
        "teacher_agreement": (float((logits.argmax(-1) == top).sum()), count),
        "teacher_kl": (float(soft_targets(logits, targets, count=1.0)), count),
    }


def _add(sums: Sums, more: Sums) -> None:
    for name, (total, count) in more.items():
        before = sums.get(name, (0.0, 0))
        sums[name] = (before[0] + total, before[1] + count)
