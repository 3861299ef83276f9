"""What becomes of a module's answer, and how a pass ends once it has been read."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models import Network, Tap
from pipeline.models.features import RULES, axis_of, make_feature

IMAGES = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
# Rows of 3 and 5 tokens; the second line is -1 for padding.
TEXT = torch.tensor(
    [[[7, 8, 9, 0, 0], [0, 0, 0, -1, -1]], [[1, 2, 3, 4, 5], [0, 0, 0, 0, 0]]], dtype=torch.int32
)
STATES = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
MAPS = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))


def reduced(answer: Tensor, inputs: Tensor, reduce: str, task: str = "label") -> Tensor:
    tap = Tap("m", reduce, 3.0)
    return make_feature([answer], tap, inputs, task=task, where="teacher.model")


def test_a_map_is_averaged_over_its_places() -> None:
    expected = torch.tensor([[MAPS[b, c].mean() for c in range(3)] for b in range(2)])
    assert torch.allclose(reduced(MAPS, IMAGES, "mean"), expected)


def test_tokens_are_averaged_without_padding() -> None:
    expected = torch.stack([STATES[0, :3].mean(0), STATES[1].mean(0)])
    assert torch.allclose(reduced(STATES, TEXT, "mean"), expected)
    assert torch.allclose(reduced(STATES, TEXT, "mean", "next_token"), expected)


def test_the_last_token_is_the_last_that_is_no_padding() -> None:
    assert torch.equal(
        reduced(STATES, TEXT, "last_token"), torch.stack([STATES[0, 2], STATES[1, 4]])
    )
    assert torch.equal(reduced(STATES, TEXT, "first_token"), STATES[:, 0])
    assert torch.equal(reduced(STATES, IMAGES, "last_token"), STATES[:, 4])


def test_an_attention_map_is_the_sum_of_powers_over_channels() -> None:
    expected = sum(MAPS[:, c].abs() ** 3 for c in range(3))
    assert torch.allclose(reduced(MAPS, IMAGES, "attention_map"), torch.as_tensor(expected))


def test_attention_probabilities_are_as_long_as_the_data_and_zero_at_padding() -> None:
    cut = TEXT[:1]  # the longest of this batch has 3 tokens, so the model saw 3
    probabilities = torch.rand(1, 2, 3, 3)
    kept = reduced(probabilities, cut, "attention_probabilities")
    assert kept.shape == (1, 2, 5, 5)
    assert torch.equal(kept[:, :, :3, :3], probabilities)
    assert torch.isclose(kept.sum(), probabilities.sum())
    both = reduced(torch.ones(2, 2, 5, 5), TEXT, "attention_probabilities")
    assert both[0].sum() == 2 * 9
    assert both[1].sum() == 2 * 25


def test_of_several_tensors_the_probabilities_are_found() -> None:
    tap = Tap("m", "attention_probabilities")
    answers = [STATES, torch.ones(2, 2, 5, 5)]
    made = make_feature(answers, tap, IMAGES, task="label", where="teacher.model")
    assert torch.equal(made, answers[1])


@pytest.mark.parametrize(
    ("answer", "inputs", "reduce"),
    [
        (STATES[:, 0], IMAGES, "mean"),
        (MAPS, IMAGES, "first_token"),
        (MAPS, IMAGES, "last_token"),
        (STATES, IMAGES, "attention_map"),
        (MAPS, IMAGES, "attention_probabilities"),
        (STATES, TEXT, "none"),
        (MAPS[:1], IMAGES, "none"),
    ],
    ids=["vector", "map", "map last", "tokens", "no square", "as many as tokens", "other batch"],
)
def test_what_cannot_be_reduced_so_is_refused(answer: Tensor, inputs: Tensor, reduce: str) -> None:
    with pytest.raises(ModelError) as caught:
        reduced(answer, inputs, reduce)
    assert str(caught.value).startswith(
        f"teacher.model: its module 'm' gives {tuple(answer.shape)} for a batch of 2; with reduce "
        f"= '{reduce}' a feature must be {RULES[reduce][1]}. Name a"
    )


def test_only_the_answers_of_tokens_are_over_positions() -> None:
    assert axis_of("next_token", "none") == "positions"
    assert {axis_of("next_token", each) for each in RULES if each != "none"} == {"rows"}
    assert {axis_of("label", each) for each in RULES} == {"rows"}


def test_a_pass_that_only_reads_taps_never_reaches_what_comes_later() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    network = Network(model)
    network.tap({"inner": Tap("1")}, only=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network(IMAGES).features["inner"].sum().backward()
    assert model[1].weight.grad is not None
    assert model[3].weight.grad is None
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # also running means
    network.tap({"inner": Tap("1")})
    assert network(IMAGES).logits.shape == (2, 2)


def test_a_projection_is_applied_and_is_no_part_of_the_model() -> None:
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    network.tap({"hint": Tap("0")})
    network.projections = nn.ModuleDict({"hint": nn.Linear(16, 7)})
    assert network(IMAGES).features["hint"].shape == (2, 7)
    assert set(network.model.state_dict()) == {"1.weight", "1.bias"}
