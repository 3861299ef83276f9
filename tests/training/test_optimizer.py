import math
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.training.optimizer import OPTIMIZERS, SCHEDULES, make_optimizer


def make(kind: str, model: nn.Module, momentum: float = 0.9) -> torch.optim.Optimizer:
    return make_optimizer(
        kind, model.parameters(), learning_rate=0.1, weight_decay=0.5, momentum=momentum
    )


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_biases_and_norms_are_not_decayed(kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    groups = make(kind, model).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert [[p.ndim for p in group["params"]] for group in groups] == [[4, 2], [1, 1, 1, 1]]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_one_step_goes_downhill(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    inputs = torch.randn(8, 3)
    optimizer = make(kind, model)
    before = model(inputs).square().mean()
    before.backward()
    optimizer.step()
    assert model(inputs).square().mean() < before


def take_steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (weight * torch.randn(weight.shape, generator=generator)).sum()
        torch.autograd.backward(loss)
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("lies", ["whole", "with gaps", "transposed"])
def test_one_kernel_or_several_take_the_same_steps(kind: str, lies: str) -> None:
    def make_weight() -> nn.Parameter:
        values = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
        cut = {"whole": values, "with gaps": values[:, ::2], "transposed": values.t()}
        return nn.Parameter(cut[lies])

    plain = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}.get(kind)
    own, other = make_weight(), make_weight()
    ours = make_optimizer(kind, [own], learning_rate=0.1, weight_decay=0.5)
    theirs = (
        plain([other], lr=0.1, weight_decay=0.5, fused=False)
        if plain
        else torch.optim.SGD([other], lr=0.1, weight_decay=0.5, momentum=0.9, nesterov=True)
    )
    take_steps(ours, own, 5)
    take_steps(theirs, other, 5)
    assert bool(ours.param_groups[0].get("fused")) is (lies == "whole" and kind != "sgd")
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_the_state_of_a_plain_optimiser_is_gone_on_with_as_it_began() -> None:
    begun, going = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    plain = torch.optim.AdamW([begun], lr=0.1, weight_decay=0.5)
    take_steps(plain, begun, 3)
    with torch.no_grad():
        going.copy_(begun)
    ours = make_optimizer("adamw", [going], learning_rate=0.1, weight_decay=0.5)
    ours.load_state_dict(deepcopy(plain.state_dict()))
    for optimizer, weight in ((plain, begun), (ours, going)):
        take_steps(optimizer, weight, 3)
    assert torch.equal(begun, going)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    groups = make("adamw", model).param_groups
    assert [group["params"] for group in groups] == [[model.bias]]


@pytest.mark.parametrize(("momentum", "is_nesterov"), [(0.9, True), (0.0, False)])
def test_momentum_is_nesterovs(momentum: float, is_nesterov: bool) -> None:
    group = make("sgd", nn.Linear(2, 2), momentum).param_groups[0]
    assert group["momentum"] == momentum
    assert group["nesterov"] is is_nesterov


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(1, 500),
    st.integers(0, 600),
    st.integers(0, 499),
)
def test_every_step_has_a_factor_above_0_and_at_most_1(
    schedule: str, steps: int, warmup_steps: int, step: int
) -> None:
    assert 0 < SCHEDULES[schedule](min(step, steps - 1), steps, warmup_steps) <= 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_in_equal_stairs_to_1(schedule: str) -> None:
    factors = [SCHEDULES[schedule](step, 100, 4) for step in range(5)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 8),
        ("linear", [1 - step / 8 for step in range(8)]),
        ("cosine", [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]),
    ],
)
def test_schedule_follows_its_formula(schedule: str, expected: list[float]) -> None:
    assert [SCHEDULES[schedule](step, 8, 0) for step in range(8)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_factor_is_0_only_after_the_last_step(schedule: str) -> None:
    assert SCHEDULES[schedule](110, 100, 10) == SCHEDULES[schedule](100, 100, 10) == 0
