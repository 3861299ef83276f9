"""How good a network is on held-out data, and how close to its teacher where a cache says so."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pipeline.losses import soft_targets
from pipeline.metrics import Tally, tally
from pipeline.models import Network
from pipeline.stream import Batch
from pipeline.targets import MixedLabels

Metrics = dict[str, float]


@torch.no_grad()
def evaluate(network: Network, batches: Iterable[Batch], device: torch.device) -> Metrics:
    """Measure accuracy and calibration on labelled samples, and divergence from the teacher.

    What cannot be known, as accuracy without labels, is left out. Where tokens are predicted there
    is a perplexity, exp(nll).

    Units: accuracy, calibration_error (15 equal-width bins) and teacher_agreement 0 to 1; nll and
        teacher_kl in nats, teacher_kl being KL(teacher || student) at temperature 1, the
        left-out classes by the richest tail that was kept.
    """
    was_training = network.training
    network.eval()
    total, divergence = None, 0.0
    for batch in batches:
        output, start = network(batch.inputs.to(device)), 0
        labels = _plain(batch.labels).to(device)
        targets = batch.targets.to(device) if batch.targets else None
        for logits in output.blocks():
            places = slice(start, start + len(logits))
            said = targets[places] if targets else None
            counted = tally(logits, labels[places], said.top_classes() if said else None)
            total = counted if total is None else total + counted
            if said:
                divergence += float(soft_targets(logits, said, count=1.0))
            start = places.stop
    network.train(was_training)
    if total is None:
        return {}
    return _named(total, divergence, predicts_tokens=network.task != "label")


def _plain(labels: Tensor | MixedLabels) -> Tensor:
    """Of mixed samples nobody is right. Shapes: returns (P,), -1 for none."""
    return torch.full_like(labels.first, -1) if isinstance(labels, MixedLabels) else labels


def better_by(name: str) -> Callable[[Metrics, Metrics], bool]:
    """Compare two evaluations by one metric; ties keep the older one."""
    sign = 1.0 if name == "accuracy" else -1.0
    return lambda new, best: sign * new[name] > sign * best[name]


def _named(total: Tally, divergence: float, *, predicts_tokens: bool) -> Metrics:
    metrics = {
        "accuracy": total.accuracy,
        "nll": total.negative_log_likelihood,
        "perplexity": total.perplexity if predicts_tokens else None,
        "calibration_error": total.expected_calibration_error,
        "teacher_agreement": total.agreement,
        "teacher_kl": divergence / total.compared if total.compared else None,
    }
    return {name: value for name, value in metrics.items() if value is not None}
