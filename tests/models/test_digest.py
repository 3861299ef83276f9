import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import Network, weights_digest

MAKE = "torch.manual_seed(0); model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))"


class Tagged(nn.Module):
    """A model whose repr shows the address of a function."""

    def extra_repr(self) -> str:
        return f"norm={nn.functional.layer_norm!r}, tag={object()!r}"


def make(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to(dtype)


def test_another_process_finds_the_same_digest() -> None:
    code = f"import torch; from torch import nn; from pipeline.models import weights_digest\n{MAKE}"
    command = [sys.executable, "-c", f"{code}; print(weights_digest(model))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == weights_digest(make())


def test_neither_gradients_nor_mode_nor_layout_matter() -> None:
    model = make()
    before = weights_digest(model)
    model.eval().requires_grad_(False)
    weight = model.get_parameter("0.weight")
    weight.data = weight.data.t().contiguous().t()
    assert weights_digest(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", sorted(make().state_dict()))
def test_one_changed_number_changes_the_digest(name: str, dtype: torch.dtype) -> None:
    model = make(dtype)
    before = weights_digest(model)
    value: Tensor = model.state_dict()[name]
    value.view(-1)[0] += 1
    assert weights_digest(model) != before


def test_dtype_changes_the_digest() -> None:
    models = [nn.Linear(2, 2, bias=False).to(d) for d in (torch.float16, torch.bfloat16)]
    for model in models:
        nn.init.zeros_(model.weight)
    assert weights_digest(models[0]) != weights_digest(models[1])


def test_another_architecture_with_the_same_tensors_differs() -> None:
    linear = nn.Linear(2, 2)
    digests = {weights_digest(nn.Sequential(linear, last)) for last in (nn.ReLU(), nn.Tanh())}
    assert len(digests) == 2


def test_addresses_are_no_part_of_the_digest() -> None:
    assert weights_digest(Tagged()) == weights_digest(Tagged())


def test_digest_of_a_network_covers_its_normalisation() -> None:
    digests = {weights_digest(Network(make(), mean=[m], std=[0.5])) for m in (0.1, 0.2)}
    assert len(digests) == 2
