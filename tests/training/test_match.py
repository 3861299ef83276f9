"""Several losses of one student: what each has in the gradient, and hints that come first."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_loop import ONCE, Diary
from tiny import CLASSES
from torch import Tensor, nn

from pipeline.compute import make_accelerator
from pipeline.losses import LOSSES, Loss
from pipeline.models import Network, Output, Tap
from pipeline.samples.arrays import ArraySamples
from pipeline.stream import Batch, Stream
from pipeline.training.loop import Learner, Progress, train
from pipeline.training.match import WeightedLoss, match, tell, weigh
from pipeline.training.roots import backpropagate, gradient_norms

CPU = torch.device("cpu")
HARD = {"kind": "hard_labels", "weight": 1.0}


def squared(own: Tensor, theirs: Tensor, *, count: float | None = None) -> Tensor:
    return (own - theirs).square().mean(1).sum() / (count or len(own))


MATCHED = Loss(squared, "features", lambda features, **_: len(features), None)


class Hinted(Stream):
    """Batches whose feature is the first three inputs of each sample."""

    def forever(self) -> Any:
        for batch in super().forever():
            yield replace(batch, features={"first": batch.inputs[:, :3]})


def samples() -> ArraySamples:
    inputs = np.random.default_rng(0).normal(size=(24, CLASSES)).astype(np.float32)
    labels = inputs.argmax(1)
    return ArraySamples("data.train", None, inputs, labels, np.array([f"s{i}" for i in range(24)]))


def hint(first_steps: int | None = None, weight: float = 1.0) -> WeightedLoss:
    return WeightedLoss("hint", MATCHED, weight, {}, feature="first", first_steps=first_steps)


def learner(losses: list[WeightedLoss]) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(CLASSES, 4), nn.BatchNorm1d(4), nn.Linear(4, 6), nn.BatchNorm1d(6),
        nn.Linear(6, CLASSES),
    )  # fmt: skip
    network = Network(model)
    network.projections = nn.ModuleDict({"hint": nn.Linear(4, 3)})
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0, weight_decay=0.5)
    taps = {"hint": Tap("1")}
    return Learner(make_accelerator("float32", device=CPU), network, optimizer, losses, taps)


def train_for(learned: Learner, steps: int, first: int | None = None) -> Diary:
    diary = Diary()
    schedule = replace(ONCE, steps=steps, learning_rate=0.01, gradients_every=2)
    stream = Hinted(samples(), batch_size=8)
    train(learned, stream, schedule=schedule, start=Progress(), observers=diary.observers())
    return diary


def state(learned: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learned.network.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_first_phase_leaves_all_that_comes_later_as_it_was() -> None:
    learned = learner([*weigh([HARD]), hint(first_steps=5)])
    before, seen = state(learned), dict[int, dict[str, Tensor]]()
    stream = Hinted(samples(), batch_size=8)
    observers = replace(
        Diary().observers(),
        advance=lambda count, text: seen.update({len(seen) + 1: state(learned)}),
    )
    schedule = replace(ONCE, steps=8, learning_rate=0.01)
    train(learned, stream, schedule=schedule, start=Progress(), observers=observers)
    early = {
        *(f"model.0.{name}" for name in ("weight", "bias")),
        *(f"model.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        "model.1.num_batches_tracked",
        *(f"projections.hint.{name}" for name in ("weight", "bias")),
    }
    assert changed(before, seen[5]) == early
    # And then everything learns, but the projection is dropped.
    assert changed(seen[5], seen[8]) == set(before) - {
        "projections.hint.weight",
        "projections.hint.bias",
    }


def test_a_hint_falls_in_its_phase_and_is_not_told_of_later() -> None:
    diary = train_for(learner([*weigh([HARD]), hint(first_steps=40)]), 50)
    told = diary.values("hint")
    assert len(told) == 40
    assert np.mean(told[-5:]) < 0.5 * np.mean(told[:5])
    assert len(diary.values("hard_labels")) == 10


def test_each_phase_has_a_whole_schedule() -> None:
    learned, diary = learner([*weigh([HARD]), hint(first_steps=4)]), Diary()
    schedule = replace(ONCE, steps=12, learning_rate=1e-3, kind="linear")
    stream = Hinted(samples(), batch_size=8)
    train(learned, stream, schedule=schedule, start=Progress(), observers=diary.observers())
    rates = diary.values("learning_rate")
    assert rates == pytest.approx([*(1e-3 * (1 - i / 4) for i in range(4)),
                                   *(1e-3 * (1 - i / 8) for i in range(8))])  # fmt: skip


def test_evaluations_wait_for_the_second_phase() -> None:
    learned, diary = learner([*weigh([HARD]), hint(first_steps=5)]), Diary(answers=[0.1, 0.2, 0.3])
    schedule = replace(ONCE, steps=9, evaluate_every=3)
    stream = Hinted(samples(), batch_size=8)
    train(learned, stream, schedule=schedule, start=Progress(), observers=diary.observers())
    assert [line["step"] for line in diary.lines if "validation" in line] == [6, 9]


def test_a_run_resumed_in_either_phase_takes_the_same_steps() -> None:
    whole = learner([*weigh([HARD]), hint(first_steps=4)])
    train_for(whole, 9)
    for stop in (2, 4, 7):
        diary = Diary()
        parted = learner([*weigh([HARD]), hint(first_steps=4)])
        stream = Hinted(samples(), batch_size=8)
        schedule = replace(ONCE, steps=9, learning_rate=0.01)
        kept: list[Progress] = []

        def stop_there(now: Progress, stop: int = stop, kept: list[Progress] = kept) -> None:
            kept.append(now)
            if now.step == stop:
                raise KeyboardInterrupt

        observers = replace(diary.observers(), save_checkpoint=stop_there)
        with pytest.raises(KeyboardInterrupt):
            train(parted, stream, schedule=replace(schedule, checkpoint_every=1), start=Progress(),
                  observers=observers)  # fmt: skip
        stream.load_state_dict(kept[-1].stream)
        train(parted, stream, schedule=schedule, start=kept[-1], observers=diary.observers())
        assert changed(state(whole), state(parted)) == set()


def test_shares_are_those_of_the_gradients_of_each_weighted_loss() -> None:
    losses = [*weigh([HARD]), hint(weight=3.0)]
    learned = learner(losses)
    batch = next(iter(Hinted(samples(), batch_size=8).forever()))
    learned.network.tap(learned.taps)
    diary = train_for(learner(losses), 1)
    output = learned.network(batch.inputs)
    norms = []
    for value in (
        LOSSES["hard_labels"].function(output.logits, batch.labels),
        3 * squared(output.features["hint"], batch.features["first"]),
    ):
        parameters = list(learned.network.model.parameters())
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        norms.append(sum(float(each.square().sum()) for each in found if each is not None) ** 0.5)
    shares = diary.lines[0]["gradient_share"]
    assert shares["hard_labels"] == pytest.approx(norms[0] / sum(norms), rel=1e-4)
    assert sum(shares.values()) == pytest.approx(1)


def test_measuring_shares_changes_no_step() -> None:
    often, never = learner([*weigh([HARD]), hint()]), learner([*weigh([HARD]), hint()])
    train_for(often, 6)
    schedule = replace(ONCE, steps=6, learning_rate=0.01)
    stream = Hinted(samples(), batch_size=8)
    train(never, stream, schedule=schedule, start=Progress(), observers=Diary().observers())
    assert changed(state(often), state(never)) == set()


def test_losses_in_chunks_have_shares_as_well() -> None:
    torch.manual_seed(0)
    body, layer = nn.Linear(CLASSES, 4), nn.Linear(4, CLASSES)
    batch: Batch = next(iter(Stream(samples(), batch_size=8)))
    losses = weigh([HARD, {**HARD, "weight": 3.0}])
    states = body(batch.inputs)
    ones = torch.ones(8, dtype=torch.int64)
    output = Output(states, ones, layer, layer)
    sums, terms = match(output, batch, losses, [8.0, 8.0], apart=True)
    norms = gradient_norms(sums, nn.ModuleList([body, layer]))
    assert norms[1] == pytest.approx(3 * norms[0], rel=1e-5)
    together, same = match(output, batch, losses, [8.0, 8.0])
    assert len(together) == 1
    for whole, *parts in zip(together[0], *sums, strict=True):
        assert all(part.value is whole.value for part in parts)
        assert isinstance(whole.gradient, Tensor)
        assert torch.allclose(whole.gradient, sum(part.gradient for part in parts))
    assert tell(same)() == pytest.approx(tell(terms)())


def test_a_step_in_chunks_is_the_step_of_whole_logits() -> None:
    """Also where the output layer is the body's own weight, which learns of both."""
    torch.manual_seed(0)
    body, batch = nn.Linear(CLASSES, CLASSES), next(iter(Stream(samples(), batch_size=8)))
    layer = nn.Linear(CLASSES, CLASSES, bias=False)
    layer.weight = body.weight
    losses, ones, found = weigh([HARD]), torch.ones(8, dtype=torch.int64), []
    for chunks in (True, False):
        states = body(batch.inputs)
        output = Output(states, ones, layer, layer) if chunks else Output(layer(states), ones)
        sums, _ = match(output, batch, losses, [8.0])
        body.zero_grad()
        backpropagate(sums[0])
        found.append([each.grad.clone() for each in body.parameters() if each.grad is not None])
    assert len(found[0]) == 2
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_loss_of_weight_0_is_told_of_and_changes_no_step() -> None:
    watched, alone = learner([*weigh([HARD]), hint(weight=0.0)]), learner(weigh([HARD]))
    told = []
    for learned in (watched, alone):
        diary = Diary()
        schedule = replace(ONCE, steps=6, learning_rate=0.01, log_every=3)
        stream = Hinted(samples(), batch_size=8)
        train(learned, stream, schedule=schedule, start=Progress(), observers=diary.observers())
        told.append(diary)
    # Weights decay; a projection that nothing teaches does not.
    assert changed(state(watched), state(alone)) == set()
    assert len(told[0].values("hint")) == 3  # steps 1, 3 and 6
    assert told[0].values("hard_labels") == told[1].values("hard_labels")
