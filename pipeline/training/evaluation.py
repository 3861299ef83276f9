"""How good a network is on held-out data, and how close to its teacher where a cache says so."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.compute import Ranks
from pipeline.losses import soft_targets
from pipeline.metrics import CALIBRATION_BINS, Tally, tally
from pipeline.models import Network
from pipeline.stream import Batch
from pipeline.targets import MixedLabels, Mixture, Targets

Metrics = dict[str, float]
# What a teacher said at some of a batch's positions; None where nothing is known.
Said = Callable[[slice], Targets | Mixture | None]
# Of inputs on the device (B, ...), what a teacher says that is asked now.
Ask = Callable[[Tensor], Said]


@dataclass(frozen=True)
class Seen:
    """Some positions of a batch as they are counted, for those who count more.

    Shapes: logits (p, C), float32 or better; labels (p,), -1 for none; `places` are those of the
        batch's P positions.
    """

    batch: Batch
    places: slice
    logits: Tensor
    labels: Tensor
    said: Targets | Mixture | None


@torch.no_grad()
def evaluate(
    network: Network,
    batches: Iterable[Batch],
    device: torch.device,
    ranks: Ranks | None = None,
    *,
    ask: Ask | None = None,
    look: Callable[[Seen], None] | None = None,
) -> Metrics:
    """Measure accuracy and calibration on labelled samples, and divergence from the teacher.

    What cannot be known, as accuracy without labels, is left out. Where tokens are predicted there
    is a perplexity, exp(nll). Of several ranks each has its own rows, and all get the same numbers.
    The teacher is what batches come with, or who answers `ask`; `look` sees all that is counted.

    Units: accuracy, calibration_error (15 equal-width bins) and teacher_agreement 0 to 1; nll and
        teacher_kl in nats, teacher_kl being KL(teacher || student) at temperature 1, the
        left-out classes by the richest tail that was kept.
    """
    was_training = network.training
    network.eval()
    total, divergence = _NOTHING, 0.0
    for batch in batches:
        if not batch.row_count:
            continue
        inputs = batch.inputs.to(device, non_blocking=True)
        output, start = network(inputs), 0
        there = batch.compared_on(device)
        labels, say = _plain(there.labels), ask(inputs) if ask else _stored(there)
        for logits in output.blocks():
            places = slice(start, start + len(logits))
            said = say(places)
            total += tally(logits, labels[places], said.top_classes() if said else None)
            if said:
                divergence += float(soft_targets(logits, said, count=1.0))
            if look:
                look(Seen(batch, places, logits, labels[places], said))
            start = places.stop
    network.train(was_training)
    total, divergence = _add_ranks(total, divergence, ranks or Ranks())
    return _named(total, divergence, predicts_tokens=network.task != "label")


def _stored(batch: Batch) -> Said:
    targets = batch.targets
    return lambda places: targets[places] if targets else None


_NOTHING = Tally(0, 0, 0.0, 0, 0, torch.zeros(3, CALIBRATION_BINS, dtype=torch.float64))


def _add_ranks(own: Tally, divergence: float, ranks: Ranks) -> tuple[Tally, float]:
    """Add up what all ranks have counted; whole numbers stay exact, up to 2^53."""
    numbers = [own.labelled, own.correct, own.surprise, own.compared, own.agreed, divergence]
    sums = ranks.add_up([*numbers, *own.bins.flatten().tolist()])
    labelled, correct, surprise, compared, agreed, divergence = sums[: len(numbers)]
    bins = torch.tensor(sums[len(numbers) :], dtype=torch.float64).view_as(own.bins)
    total = Tally(int(labelled), int(correct), surprise, int(compared), int(agreed), bins)
    return total, divergence


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
