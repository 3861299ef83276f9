from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSES, make_cache, make_samples
from torch import nn

from pipeline.compute import make_accelerator
from pipeline.errors import PipelineError
from pipeline.models import Network
from pipeline.samples.arrays import ArraySamples
from pipeline.stream import Stream
from pipeline.training.loop import (
    Learner,
    Metrics,
    Observers,
    Progress,
    Schedule,
    train,
)
from pipeline.training.match import WeightedLoss, weigh
from pipeline.training.optimizer import SCHEDULES

CPU = torch.device("cpu")
HARD = {"kind": "hard_labels", "weight": 1.0}
SOFT = {"kind": "soft_targets", "weight": 0.5, "temperature": 2.0, "tail": "bucket"}
ONCE = Schedule(steps=4, learning_rate=0.1, evaluate_every=10, checkpoint_every=10, log_every=1)


@dataclass
class Diary:
    """Writes down what the loop tells its observers; `answers` are the evaluations to come."""

    answers: list[float] = field(default_factory=list)
    lines: list[Mapping[str, Any]] = field(default_factory=list)
    checkpoints: list[Progress] = field(default_factory=list)
    best: list[Metrics] = field(default_factory=list)

    def observers(self) -> Observers:
        return Observers(
            log=self.lines.append,
            evaluate=(lambda: {"score": self.answers.pop(0)}) if self.answers else None,
            better=lambda new, best: new["score"] > best["score"],
            save_checkpoint=self.checkpoints.append,
            save_best=self.best.append,
            advance=lambda count, text: None,
        )

    def values(self, key: str) -> list[float]:
        return [line[key] for line in self.lines if key in line]


def separable(rows: int, labels: list[int] | None = None) -> ArraySamples:
    """Samples whose first inputs tell their label; any of them may be unlabelled."""
    numbers = np.arange(rows) % CLASSES if labels is None else np.array(labels)
    inputs = np.random.default_rng(0).normal(size=(rows, CLASSES)).astype(np.float32)
    inputs[np.arange(rows), numbers] += 3
    ids = np.array([f"s{row}" for row in range(rows)])
    return ArraySamples("data.train", None, inputs, numbers, ids)


def learner(losses: list[WeightedLoss], inputs: int = CLASSES) -> Learner:
    """A fresh linear student, the same each time, with plain gradient descent."""
    torch.manual_seed(0)
    network = Network(nn.Linear(inputs, CLASSES))
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    return Learner(make_accelerator("float32", device=CPU), network, optimizer, losses)


def weights(learned: Learner) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in learned.network.parameters()])


def run(
    stream: Stream, schedule: Schedule, diary: Diary, start: Progress | None = None
) -> tuple[Learner, Progress]:
    learned = learner(weigh([HARD]))
    observers = diary.observers()
    start = start or Progress()
    return learned, train(learned, stream, schedule=schedule, start=start, observers=observers)


def test_the_loss_falls_on_data_that_can_be_learned() -> None:
    diary = Diary()
    schedule = replace(ONCE, steps=60, learning_rate=0.5)
    _, end = run(Stream(separable(40), batch_size=10), schedule, diary)
    assert end.step == 60
    losses = diary.values("loss")
    assert len(losses) == 60
    assert sum(losses[-4:]) < 0.2 * sum(losses[:4])


def test_a_line_of_metrics_holds_each_loss_and_their_weighted_sum(tmp_path: Path) -> None:
    samples = make_samples(12)
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=4)
    learned = learner(weigh([SOFT, HARD]), inputs=3)
    diary = Diary()
    stream = Stream(samples, cache, batch_size=4)
    train(learned, stream, schedule=ONCE, start=Progress(), observers=diary.observers())
    first = diary.lines[0]
    assert list(first) == ["step", "epoch", "loss", "soft_targets", "hard_labels", "learning_rate"]
    assert [line["epoch"] for line in diary.lines] == [0, 0, 0, 1]
    for line in diary.lines:
        expected = 0.5 * line["soft_targets"] + line["hard_labels"]
        assert line["loss"] == pytest.approx(expected)


@pytest.mark.parametrize("labelled", [20, 7], ids=["all_labelled", "unevenly_labelled"])
def test_accumulated_batches_make_the_step_of_one_large_batch(labelled: int) -> None:
    labels = [row % CLASSES if row < labelled else -1 for row in range(20)]
    streams = [Stream(separable(20, labels), batch_size=size) for size in (20, 7)]
    one, _ = run(streams[0], replace(ONCE, steps=3), Diary())
    many, _ = run(streams[1], replace(ONCE, steps=3, accumulate=3), Diary())
    assert torch.allclose(weights(one), weights(many), atol=1e-6)


@pytest.mark.parametrize("restores", [True, False], ids=["put back", "left as it was judged"])
def test_every_step_is_taken_in_training_mode(restores: bool) -> None:
    learned, seen = learner(weigh([HARD])), list[bool]()
    learned.network.eval()  # as whoever opened it may have left it
    inner = next(learned.network.model.modules())
    inner.register_forward_hook(lambda module, inputs, answer: seen.append(module.training))
    diary = Diary()

    def evaluate() -> Metrics:
        learned.network.eval()
        if restores:
            learned.network.train()
        return {"score": 0.0}

    train(
        learned,
        Stream(separable(20), batch_size=5),
        schedule=replace(ONCE, evaluate_every=1),
        start=Progress(),
        observers=replace(diary.observers(), evaluate=evaluate),
    )
    assert seen == [True] * 4


def test_a_step_never_spans_two_epochs() -> None:
    diary = Diary()
    schedule = replace(ONCE, steps=4, accumulate=2, checkpoint_every=1)
    run(Stream(separable(30), batch_size=10), schedule, diary)
    places = [each.stream for each in diary.checkpoints]
    assert places == [
        {"epoch": 0, "batch": 2, "batch_size": 10},
        {"epoch": 1, "batch": 0, "batch_size": 10},
        {"epoch": 1, "batch": 2, "batch_size": 10},
        {"epoch": 2, "batch": 0, "batch_size": 10},
    ]


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
def test_each_step_takes_its_share_of_the_learning_rate(kind: str) -> None:
    diary = Diary()
    schedule = replace(ONCE, steps=6, kind=kind, warmup_steps=2)
    learned, _ = run(Stream(separable(20), batch_size=5), schedule, diary)
    factors = [SCHEDULES[kind](step, 6, 2) for step in range(6)]
    assert diary.values("learning_rate") == [0.1 * factor for factor in factors]
    assert learned.optimizer.param_groups[0]["lr"] == 0.1 * factors[-1]


def test_a_step_moves_by_the_rate_that_was_logged_for_it() -> None:
    diary = Diary()
    schedule = replace(ONCE, steps=1, kind="linear", warmup_steps=4)
    before = weights(learner([]))
    after, _ = run(Stream(separable(20), batch_size=20), schedule, diary)
    full, _ = run(Stream(separable(20), batch_size=20), replace(ONCE, steps=1), Diary())
    assert torch.allclose(weights(after) - before, 0.25 * (weights(full) - before), atol=1e-7)


def test_gradients_are_clipped_to_the_norm() -> None:
    before = weights(learner([]))
    schedule = replace(ONCE, steps=1, learning_rate=1.0, clip_norm=0.01)
    after, _ = run(Stream(separable(20), batch_size=20), schedule, Diary())
    assert float((weights(after) - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_names_the_step_and_the_samples() -> None:
    samples = separable(8)
    inputs = np.array(samples.inputs[np.arange(8)])
    inputs[5] = np.nan
    broken = ArraySamples("data.train", None, inputs, samples.label_rows, samples.id_rows)
    diary = Diary()
    with pytest.raises(PipelineError) as refused:
        run(Stream(broken, batch_size=4, seed=None), ONCE, diary)
    assert str(refused.value) == (
        "step 2: hard_labels became nan on a batch that begins with the samples s4, s5, s6, s7\n"
        "  Lower training.learning_rate, set training.clip_norm = 1.0 or add warmup_steps; "
        "earlier checkpoints are kept."
    )
    assert len(diary.lines) == 1


def test_patience_ends_a_run_that_gets_no_better() -> None:
    diary = Diary(answers=[0.5, 0.7, 0.7, 0.6, 0.9])
    schedule = replace(ONCE, steps=50, evaluate_every=2, checkpoint_every=100, patience=2)
    _, end = run(Stream(separable(20), batch_size=5), schedule, diary)
    assert end == Progress(8, {"score": 0.7}, 4, 2, {"epoch": 2, "batch": 0, "batch_size": 5})
    assert diary.best == [{"score": 0.5}, {"score": 0.7}]
    assert diary.checkpoints == [end]


def test_a_run_that_ran_out_of_patience_takes_no_more_steps() -> None:
    diary = Diary(answers=[1.0])
    start = Progress(step=8, best={"score": 0.7}, best_step=4, stale=2)
    schedule = replace(ONCE, steps=50, patience=2)
    _, end = run(Stream(separable(20), batch_size=5), schedule, diary, start)
    assert end == start
    assert diary.lines == []


def test_without_an_evaluation_the_last_step_is_the_best() -> None:
    diary = Diary()
    _, end = run(Stream(separable(20), batch_size=5), replace(ONCE, evaluate_every=3), diary)
    assert (end.best_step, end.best) == (4, {})
    assert diary.best == [{}, {}]


def test_evaluations_are_logged_when_they_are_due_and_at_the_end() -> None:
    diary = Diary(answers=[0.1, 0.2, 0.3])
    schedule = replace(ONCE, steps=5, evaluate_every=2, log_every=3)
    run(Stream(separable(20), batch_size=5), schedule, diary)
    assert [(line["step"], "validation" in line) for line in diary.lines] == [
        *((1, False), (2, True), (3, False), (4, True), (5, True)),
    ]


def test_kinds_that_occur_twice_are_numbered() -> None:
    weighted = weigh([HARD, SOFT, {**SOFT, "weight": 2.0}, HARD, SOFT])
    assert [each.name for each in weighted] == [
        *("hard_labels", "soft_targets", "soft_targets_#2", "hard_labels_#2", "soft_targets_#3"),
    ]
    assert weighted[2].weight == 2.0
    assert weighted[1].settings == {"temperature": 2.0, "tail": "bucket"}
