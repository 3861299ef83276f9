"""A few steps of tiny students, as one of several ranks or alone: gradients and metrics, kept."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_loop import HARD, ONCE, SOFT, Diary
from tiny import CLASSES, make_cache, make_samples
from torch import Tensor, nn

from pipeline.compute import Ranks, join_ranks, make_accelerator
from pipeline.losses import LOSSES
from pipeline.models import Network, Tap
from pipeline.samples import make_views, open_samples
from pipeline.samples.arrays import ArraySamples
from pipeline.store import open_cache
from pipeline.stream import Blend, Stream
from pipeline.training.evaluation import evaluate
from pipeline.training.loop import Learner, Progress, Schedule, train
from pipeline.training.match import WeightedLoss, weigh
from pipeline.training.together import share_buffers

CPU = torch.device("cpu")
ROWS = 23
FEW = replace(ONCE, learning_rate=0.05, gradients_every=2)


class Recorder(torch.optim.SGD):
    """Plain gradient descent that keeps the gradients of each step, those that there are."""

    kept: list[dict[str, Tensor]]
    names: dict[int, str]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # without a closure
        self.kept.append(
            {
                self.names[id(each)]: each.grad.clone()
                for group in self.param_groups
                for each in group["params"]
                if each.grad is not None
            }
        )
        super().step()


@dataclass(frozen=True)
class Case:
    """What is trained on, given the numbers of a rank, with what and how."""

    stream: Callable[[dict[str, Any]], Stream | Blend]
    network: Callable[[], Network]
    losses: list[WeightedLoss]
    schedule: Schedule = FEW
    taps: Mapping[str, Tap] | None = None


def linear(inputs: int = 3) -> Network:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 7), nn.Tanh(), nn.Linear(7, CLASSES))
    return Network(layers)


def cached(folder: Path, batch_size: int, **more: Any) -> Callable[[dict[str, Any]], Stream]:
    cache = open_cache(folder / "cache")
    return lambda own: Stream(make_samples(ROWS), cache, batch_size=batch_size, **own, **more)


def image(folder: Path) -> Case:
    return Case(cached(folder, 6), linear, weigh([SOFT, HARD]))


def short(folder: Path) -> Case:
    """The last batch of each epoch is one row, so that only one rank has any."""
    return Case(cached(folder, 22), linear, weigh([SOFT, HARD]), replace(FEW, gradients_every=1))


def accumulated(folder: Path) -> Case:
    return Case(cached(folder, 3), linear, weigh([SOFT, HARD]), replace(FEW, accumulate=4))


def clipped(folder: Path) -> Case:
    return Case(cached(folder, 6), linear, weigh([SOFT, HARD]), replace(FEW, clip_norm=0.01))


def partly_labelled(folder: Path) -> Case:
    """Three of eight rows of a batch have labels, other numbers of them for each rank."""
    samples = make_samples(ROWS)
    labels = np.where(5 * np.arange(ROWS) % 8 < 3, np.arange(ROWS) % CLASSES, -1)
    some = ArraySamples("data.train", None, samples.inputs, labels, samples.id_rows)
    return Case(lambda own: Stream(some, batch_size=8, seed=None, **own), linear, weigh([HARD]))


def mixed(folder: Path) -> Case:
    images = np.random.default_rng(0).integers(0, 255, (ROWS, 1, 4, 4), dtype=np.uint8)
    ids = np.array([f"s{row}" for row in range(ROWS)])
    samples = ArraySamples("data.train", None, images, np.arange(ROWS) % CLASSES, ids)
    fresh = make_views(samples, augment=[{"kind": "flip"}], mix={"kind": "mixup", "alpha": 1.0})
    return Case(
        lambda own: Stream(samples, batch_size=6, fresh=fresh, **own),
        lambda: linear(16),
        weigh([HARD]),
    )


def text(folder: Path) -> Case:
    """Rows of other numbers of tokens, whose logits are made in chunks."""
    samples = open_samples(
        "text", base=folder, name="data.train", path="text.txt", tokenizer="bytes", length=48
    )

    def network() -> Network:
        layers = nn.Sequential(nn.Embedding(257, 8), nn.Linear(8, 257))
        return Network(layers, task="next_token")

    return Case(
        lambda own: Stream(samples, batch_size=6, group_by_length=True, **own),
        network,
        weigh([HARD]),
        replace(FEW, accumulate=2),
    )


def blended(folder: Path) -> Case:
    def stream(own: dict[str, Any]) -> Blend:
        few = Stream(make_samples(7), batch_size=1, seed=1, **own)
        return Blend([few, cached(folder, 5)(own)])

    return Case(stream, linear, weigh([HARD, SOFT]))


class Featured(Stream):
    """Batches whose feature is the inputs of each sample."""

    def forever(self) -> Any:
        for batch in super().forever():
            yield replace(batch, features={"first": batch.inputs})


def of_feature(kind: str, **more: Any) -> WeightedLoss:
    return WeightedLoss(kind, LOSSES[kind], 1.0, {}, feature="first", **more)


def hinted(folder: Path) -> Case:
    """For two steps the first layer alone learns: what comes later has no gradient anywhere."""

    def network() -> Network:
        made = linear()
        made.projections = nn.ModuleDict({"hint": nn.Linear(7, 3)})
        return made

    return Case(
        lambda own: Featured(make_samples(ROWS), batch_size=6, **own),
        network,
        [*weigh([HARD]), of_feature("hint", first_steps=2)],
        taps={"hint": Tap("1")},
    )


RELATIONS = ("relational_distance", "relational_angle", "similarity")


def related(folder: Path) -> Case:
    """Samples are compared with those of other ranks; of the last batch one rank has none."""
    return Case(
        lambda own: Featured(make_samples(ROWS), batch_size=21, **own),
        linear,
        [*weigh([HARD]), *map(of_feature, RELATIONS)],
        taps={name: Tap("1") for name in RELATIONS},
    )


def related_sources(folder: Path) -> Case:
    """The source that has features has fewer rows in a batch than there are ranks."""

    def stream(own: dict[str, Any]) -> Blend:
        few = Featured(make_samples(8), batch_size=2, seed=1, **own)
        return Blend([few, Stream(make_samples(ROWS), batch_size=4, **own)])

    return Case(
        stream,
        linear,
        [*weigh([HARD]), of_feature("similarity")],
        replace(FEW, accumulate=2),
        taps={"similarity": Tap("1")},
    )


CASES: dict[str, Callable[[Path], Case]] = {
    each.__name__: each
    for each in (
        image,
        short,
        accumulated,
        clipped,
        partly_labelled,
        mixed,
        text,
        blended,
        hinted,
        related,
        related_sources,
    )
}


def make_folder(folder: Path) -> None:
    """Write what all ranks read."""
    make_cache(folder / "cache", make_samples(ROWS), rows_per_part=8)
    words = np.random.default_rng(0).integers(1, 9, 19)
    (folder / "text.txt").write_text("\n".join("word " * count for count in words) + "\n")


def run_case(name: str, folder: Path, ranks: Ranks) -> tuple[list[dict[str, Tensor]], list[Any]]:
    """Take four steps; gives the gradients of each and all that was told."""
    case, diary = CASES[name](folder), Diary()
    torch.manual_seed(0)
    network = case.network()
    optimizer = Recorder(network.parameters(), lr=1.0)
    optimizer.kept = []
    optimizer.names = {id(each): name for name, each in network.named_parameters()}
    accelerator = make_accelerator("float32", device=CPU)
    learner = Learner(accelerator, network, optimizer, case.losses, case.taps or {}, ranks)
    own = {"rank": ranks.rank, "world_size": ranks.size}
    train(
        learner,
        case.stream(own),
        schedule=case.schedule,
        start=Progress(),
        observers=diary.observers(),
    )
    network.tap({})
    if name in ("image", "short"):
        held_out = cached(folder, 22, seed=None)(own)
        diary.lines.append(evaluate(network, held_out, CPU, ranks))
    return optimizer.kept, list(diary.lines)


def record_all(folder: str) -> None:
    """Run all cases as a rank, and keep what each found."""
    with join_ranks() as ranks:
        for name in CASES:
            kept, lines = run_case(name, Path(folder), ranks)
            path = Path(folder) / f"{name}-{ranks.rank}"
            torch.save(kept, path.with_suffix(".pt"))
            path.with_suffix(".json").write_text(json.dumps(lines))


def share_what_is_remembered() -> None:
    """Let each rank remember its number, and print what all remember together."""
    model = nn.BatchNorm1d(2)
    with join_ranks() as ranks:
        assert model.running_mean is not None
        model.running_mean += ranks.rank
        kept = [model.running_mean, torch.tensor([3 + ranks.rank]), torch.zeros(2) - ranks.rank]
        model.register_buffer("counted", kept[1])
        model.register_buffer("table", kept[2])
        share_buffers(model, ranks)
    print(json.dumps([each.tolist() for each in kept]))
