"""Several ranks take the steps of one: the same gradients, losses and metrics, up to rounding."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nursery import Nursery
from rank_cases import CASES, make_folder, run_case
from torch import Tensor

from pipeline.compute import Ranks
from pipeline.training import together
from pipeline.training.randomness import capture_rng, restore_rank_rng, seed_rank

SIZES = (2, 3)
# Of the largest gradient of a step, in float32.
CLOSE = 1e-6


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size} ranks")
def recorded(
    request: pytest.FixtureRequest, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path]:
    """Let ranks run all cases, once for all tests."""
    folder, size = tmp_path_factory.mktemp("ranks"), request.param
    make_folder(folder)
    children = nursery.start_ranks(size, str(folder), call="rank_cases:record_all")
    for answer in [child.wait() for child in children]:
        assert (answer.status, answer.stderr) == (0, "")
    return size, folder


def told(folder: Path, name: str, rank: int) -> tuple[list[dict[str, Tensor]], list[Any]]:
    path = folder / f"{name}-{rank}"
    return torch.load(path.with_suffix(".pt")), json.loads(path.with_suffix(".json").read_text())


def farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Give the largest difference of two gradients, by the largest entry of the first."""
    assert one.keys() == other.keys()
    largest = max(float(each.abs().max()) for each in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


@pytest.mark.parametrize("name", sorted(CASES))
def test_gradients_losses_and_metrics_are_those_of_one_rank(
    name: str, recorded: tuple[int, Path]
) -> None:
    size, folder = recorded
    gradients, lines = run_case(name, folder, Ranks())
    for rank in range(size):
        found, said = told(folder, name, rank)
        assert len(found) == len(gradients) == 4
        # Weights differ by rounding from the second step on.
        assert farthest(gradients[0], found[0]) < CLOSE
        assert all(farthest(*both) < 10 * CLOSE for both in zip(gradients, found, strict=True))
        assert len(said) == len(lines)
        for here, there in zip(lines, said, strict=True):
            assert flat(there) == pytest.approx(flat(here), rel=1e-6, abs=1e-6)


def flat(line: dict[str, Any]) -> dict[str, float]:
    shares = line.get("gradient_share", {})
    return {**line, **{f"share of {name}": value for name, value in shares.items()}} | {
        "gradient_share": 0.0
    }


@pytest.mark.parametrize("name", sorted(CASES))
def test_all_ranks_take_the_very_same_step(name: str, recorded: tuple[int, Path]) -> None:
    size, folder = recorded
    first, lines = told(folder, name, 0)
    for rank in range(1, size):
        other, said = told(folder, name, rank)
        assert said == lines
        for one, two in zip(first, other, strict=True):
            assert all(torch.equal(one[each], two[each]) for each in one)


def test_gradients_are_cut_into_buckets_of_one_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "BUCKET_BYTES", 40)
    narrow = torch.zeros(5, dtype=torch.bfloat16)
    gradients = [torch.zeros(size) for size in (4, 6, 1, 30, 2)] + [narrow]
    cut = [[len(each) for each in bucket] for bucket in together._buckets(gradients)]
    assert cut == [[4, 6], [1], [30], [2], [5]]


def test_running_means_are_averaged_and_other_buffers_are_the_first_ranks(
    nursery: Nursery,
) -> None:
    children = nursery.start_ranks(2, call="rank_cases:share_what_is_remembered")
    for answer in [child.wait() for child in children]:
        assert (answer.status, answer.stderr) == (0, "")
        assert json.loads(answer.stdout) == [[0.5, 0.5], [3], [0.0, 0.0]]


def test_each_rank_draws_numbers_of_its_own_and_finds_them_again() -> None:
    drawn = []
    for rank in range(3):
        seed_rank(5, Ranks(rank, 3))
        drawn.append(torch.rand(4).tolist())
    torch.manual_seed(5)
    assert torch.rand(4).tolist() == drawn[0]
    assert len(set(map(tuple, drawn))) == 3

    states = []
    for rank in range(2):
        seed_rank(5, Ranks(rank, 2))
        torch.rand(4)
        states.append(capture_rng())
    state = {**states[0], "others": states[1:]}
    following = []
    for rank in range(3):
        assert restore_rank_rng(state, Ranks(rank, 3), seed=5, step=7) == 2
        following.append(torch.rand(4).tolist())
    seed_rank(5, Ranks(1, 2))
    torch.rand(4)
    assert torch.rand(4).tolist() == following[1]
    assert following[2] not in drawn
