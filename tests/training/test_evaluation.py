import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import CLASSES, make_cache, make_logits, make_samples
from torch import Tensor, nn

from pipeline.models import Network
from pipeline.samples.arrays import ArraySamples
from pipeline.stream import Stream
from pipeline.training.evaluation import better_by, evaluate

CPU = torch.device("cpu")
ROWS = 23


def network() -> Network:
    torch.manual_seed(0)
    return Network(nn.Sequential(nn.Linear(3, CLASSES), nn.Dropout(0.5)))


def ask(judged: Network, inputs: NDArray[Any]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = judged.eval()(torch.from_numpy(inputs)).logits
        return logits


def partly_labelled() -> ArraySamples:
    samples = make_samples(ROWS)
    labels = np.where(np.arange(ROWS) % 3 == 1, -1, np.arange(ROWS) % CLASSES)
    return ArraySamples("data.test", None, samples.inputs, labels, samples.id_rows)


@pytest.mark.parametrize("batch_size", [1, 4, 23, 100])
def test_every_labelled_sample_counts_the_same_whatever_its_batch(batch_size: int) -> None:
    samples, judged = partly_labelled(), network()
    metrics = evaluate(judged, Stream(samples, batch_size=batch_size, seed=None), CPU)

    right, surprise, count = 0, 0.0, 0
    for row in range(ROWS):
        one = samples.read([row])
        label = int(one.labels[0])
        log_probs = ask(judged, one.inputs).log_softmax(1)[0]
        if label >= 0:
            count += 1
            right += int(log_probs.argmax()) == label
            surprise -= float(log_probs[label])
    assert metrics["accuracy"] == right / count
    assert metrics["nll"] == pytest.approx(surprise / count, rel=1e-5)
    assert "teacher_kl" not in metrics


@pytest.mark.parametrize("k", [2, CLASSES], ids=["top_k", "all"])
def test_the_divergence_is_from_the_teacher_over_kept_classes_and_one_for_the_rest(
    k: int, tmp_path: Path
) -> None:
    samples, judged = make_samples(ROWS), network()
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=8, k=k)
    metrics = evaluate(judged, Stream(samples, cache, batch_size=7, seed=None), CPU)

    divergence, agreed = 0.0, 0
    student = ask(judged, samples.read(range(ROWS)).inputs).double().softmax(1)
    teacher = make_logits(ROWS).double().softmax(1)
    for ours, theirs in zip(student, teacher, strict=True):
        kept = theirs.argsort(descending=True)[:k].tolist()
        pairs = [(float(theirs[each]), float(ours[each])) for each in kept]
        rest = (1 - sum(pair[0] for pair in pairs), 1 - sum(pair[1] for pair in pairs))
        pairs += [rest] if k < CLASSES else []
        divergence += sum(p * math.log(p / q) for p, q in pairs)
        agreed += int(ours.argmax()) == kept[0]
    assert metrics["teacher_kl"] == pytest.approx(divergence / ROWS, rel=1e-2)
    assert metrics["teacher_agreement"] == agreed / ROWS


def test_what_cannot_be_known_is_left_out() -> None:
    samples = make_samples(ROWS)
    unlabelled = ArraySamples("data.test", None, samples.inputs, None, samples.id_rows)
    assert evaluate(network(), Stream(unlabelled, batch_size=7), CPU) == {}


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_leaves_the_network_as_it_was(training: bool) -> None:
    judged = network().train(training)
    stream = Stream(make_samples(ROWS), batch_size=7, seed=None)
    first, second = evaluate(judged, stream, CPU), evaluate(judged, stream, CPU)
    assert first == second  # dropout was off
    assert judged.training is training
    assert all(each.grad is None for each in judged.parameters())


@pytest.mark.parametrize(
    ("name", "new", "is_better"),
    [("accuracy", 0.6, True), ("accuracy", 0.4, False), ("nll", 0.4, True), ("nll", 0.6, False)],
)
def test_more_accuracy_and_less_of_all_else_is_better(
    name: str, new: float, is_better: bool
) -> None:
    better = better_by(name)
    assert better({name: new}, {name: 0.5}) is is_better
    assert better({name: 0.5}, {name: 0.5}) is False
