import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.training.checkpoint import load_checkpoint, save_best, save_checkpoint
from pipeline.training.optimizer import make_optimizer
from pipeline.training.randomness import capture_rng, restore_rng

INPUTS = torch.linspace(-1, 1, 24).view(8, 3)


class Run:
    """A model and its optimiser, freshly made from a seed."""

    def __init__(self, kind: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2)
        )
        self.optimizer = make_optimizer(
            kind, self.model.parameters(), learning_rate=0.01, weight_decay=0.1
        )

    def take_steps(self, count: int) -> None:
        for _ in range(count):
            noise = torch.randn(8, 3) + random.random() + np.random.standard_normal()
            self.optimizer.zero_grad()
            self.model(INPUTS + noise).square().sum().backward()
            self.optimizer.step()

    def save(self, folder: Path, step: int) -> None:
        save_checkpoint(
            folder,
            step,
            weights=self.model.state_dict(),
            optimizer_state=self.optimizer.state_dict(),
            progress={"step": step, "best": {"accuracy": 0.5}},
        )


def save(folder: Path, step: int, value: float = 0.0) -> None:
    save_checkpoint(
        folder, step, weights={"w": torch.full((4,), value)}, optimizer_state={}, progress={}
    )


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_continued_run_ends_in_the_same_bits(kind: str, tmp_path: Path) -> None:
    seed_all(1)
    whole = Run(kind, 0)
    whole.take_steps(20)

    seed_all(1)
    stopped = Run(kind, 0)
    stopped.take_steps(10)
    stopped.save(tmp_path, 10)

    seed_all(99)
    continued = Run(kind, 5)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    continued.model.load_state_dict(checkpoint.weights)
    continued.optimizer.load_state_dict(checkpoint.optimizer_state)
    restore_rng(checkpoint.rng)
    continued.take_steps(10)

    assert checkpoint.step == 10
    assert checkpoint.progress == {"step": 10, "best": {"accuracy": 0.5}}
    assert same(continued.model.state_dict(), whole.model.state_dict())


def test_every_generator_goes_on_where_it_was() -> None:
    def draw() -> tuple[float, float, float, float]:
        # An odd number of gaussians leaves a spare one in Python's and numpy's generators.
        return (
            random.gauss(0, 1),
            float(np.random.standard_normal()),
            torch.randn(1).item(),
            random.random(),
        )

    seed_all(3)
    draw()
    state = capture_rng()
    expected = draw()
    seed_all(4)
    restore_rng(state)
    assert draw() == expected


def test_given_generators_are_kept_instead_of_the_present_ones(tmp_path: Path) -> None:
    seed_all(3)
    state = capture_rng()
    seed_all(4)
    save_checkpoint(tmp_path, 1, weights={}, optimizer_state={}, progress={}, rng=state)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert torch.equal(checkpoint.rng["torch"], state["torch"])


def test_run_without_a_checkpoint_starts_from_nothing(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


def test_only_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    for step in (1, 500, 1000):
        save(tmp_path, step)
    assert names(tmp_path) == ["checkpoints", "last.json"]
    assert names(tmp_path / "checkpoints") == ["001000"]
    assert names(tmp_path / "checkpoints/001000") == [
        "progress.json",
        "state.pt",
        "weights.safetensors",
    ]


def test_same_step_may_be_saved_again(tmp_path: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        save(tmp_path, 7, value)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.weights["w"].tolist() == [3.0] * 4
    assert len(names(tmp_path / "checkpoints")) == 1


@pytest.mark.parametrize("call", range(6))
def test_crash_at_any_write_leaves_one_checkpoint_whole(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 1.0)
    calls = 0

    def crash(write: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*given: object, **named: object) -> None:
            nonlocal calls
            calls += 1
            if calls > call:
                raise OSError("No space left on device")
            write(*given, **named)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", crash(torch.save))
        patch.setattr(os, "replace", crash(os.replace))
        patch.setattr("shutil.rmtree", crash(lambda *_, **__: None))
        try:
            save(tmp_path, 2, 2.0)
        except OSError:
            assert calls > call
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.weights["w"].tolist() == [float(checkpoint.step)] * 4
    save(tmp_path, 3, 3.0)
    assert names(tmp_path) == ["checkpoints", "last.json"]
    assert names(tmp_path / "checkpoints") == ["000003"]


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "progress.json"])
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda raw: raw[:-1], r"it has \d+ bytes instead of \d+"),
        (
            lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
            "its SHA-256 is not the one it was saved with",
        ),
        (None, r"it is missing, though .*last\.json names it"),
    ],
    ids=["cut", "flipped", "missing"],
)
def test_damaged_file_is_named(
    name: str, damage: Callable[[bytes], bytes] | None, fault: str, tmp_path: Path
) -> None:
    save(tmp_path, 5)
    path = tmp_path / "checkpoints/000005" / name
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(content))
    message = (
        rf"000005/{name}: the run cannot be continued from here, {fault}\. Restore the file, "
        r"or delete last\.json in the run's folder to train from the start\.$"
    )
    with pytest.raises(PipelineError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "\xff"])
def test_damaged_pointer_is_named(text: str, tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / "last.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PipelineError, match=r"last\.json: the run cannot .* it is not readable"):
        load_checkpoint(tmp_path)


def test_tied_and_transposed_weights_are_kept(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    weights = {"embedding": weight, "head": weight, "transposed": weight.t()}
    save_checkpoint(tmp_path, 1, weights=weights, optimizer_state={}, progress={})
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert same(checkpoint.weights, weights)


def test_best_weights_are_replaced_with_what_made_them_best(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for value in (1.0, 2.0):
        save_best(folder, {"w": torch.tensor([value])}, {"accuracy": value / 4, "step": 3})
    assert load_file(folder / "best.safetensors")["w"].tolist() == [2.0]
    document = json.loads((folder / "best.json").read_text())
    assert document["metrics"] == {"accuracy": 0.5, "step": 3}
    assert document["weights"]["size_bytes"] == (folder / "best.safetensors").stat().st_size
    assert names(folder) == ["best.json", "best.safetensors"]
