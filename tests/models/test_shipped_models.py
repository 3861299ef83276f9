from pathlib import Path

import pytest
import torch

from pipeline.models import Network, load_network, weights_digest

RECIPES = Path(__file__).parents[2] / "data" / "recipes"
SIZES = {
    "digits_teacher": 8,
    "digits_student": 8,
    "fashion_teacher": 28,
    "fashion_student": 28,
}


def load(name: str, seed: int = 0, **arguments: int) -> Network:
    torch.manual_seed(seed)
    factory = f"models:{name}"
    return load_network(
        "python", base=RECIPES, where="model", factory=factory, arguments=arguments
    ).eval()


@pytest.mark.parametrize("name", SIZES)
def test_network_answers_with_ten_classes(name: str) -> None:
    inputs = torch.randint(0, 256, (3, 1, SIZES[name], SIZES[name]), dtype=torch.uint8)
    assert load(name)(inputs).logits.shape == (3, 10)


@pytest.mark.parametrize("name", SIZES)
def test_same_seed_makes_the_same_weights(name: str) -> None:
    assert weights_digest(load(name)) == weights_digest(load(name))
    assert weights_digest(load(name)) != weights_digest(load(name, seed=1))


@pytest.mark.parametrize("name", ["digits_student", "fashion_student"])
def test_students_are_smaller_than_their_teachers_at_any_width(name: str) -> None:
    teacher = size(load(name.replace("student", "teacher")))
    narrow, wide = size(load(name, width=2)), size(load(name, width=16))
    assert narrow < wide < teacher / 4


def test_a_text_is_classified_alike_whatever_padding_follows_it() -> None:
    network = load("text_classifier", vocabulary=20)
    rows = torch.tensor([[[3, 4, 5, 0, 0, 0], [0, 0, 0, -1, -1, -1]]], dtype=torch.int32)
    longer = torch.tensor([[[3, 4, 5, 6, 7, 0], [0, 0, 0, 0, 0, -1]]], dtype=torch.int32)
    together = network(torch.cat([rows, longer])).logits
    assert together.shape == (2, 3)
    torch.testing.assert_close(together[:1], network(rows).logits)
    rows[:, 0, 3:] = 9
    torch.testing.assert_close(together[:1], network(rows).logits)


def size(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
