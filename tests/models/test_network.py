import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models import Network, prepare, set_precision

CPU = torch.device("cpu")


class Answering(nn.Module):
    """A model that answers with whatever a function makes of its inputs."""

    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, inputs: Tensor) -> object:
        return self.answer(inputs)


class Answer:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def flatten(inputs: Tensor) -> Tensor:
    return inputs.flatten(1)


def images(batch: int = 2, channels: int = 1) -> Tensor:
    return torch.randint(0, 256, (batch, channels, 2, 2), dtype=torch.uint8)


@pytest.mark.parametrize(
    "wrap",
    [lambda t: t, lambda t: {"logits": t}, Answer],
    ids=["tensor", "dict", "object"],
)
def test_logits_are_found_in_whatever_holds_them(wrap: Callable[[Tensor], object]) -> None:
    inputs = torch.randn(3, 4)
    output = Network(Answering(lambda x: wrap(x)))(inputs)
    assert torch.equal(output.logits, inputs)
    assert output.positions.tolist() == [1, 1, 1]
    assert output.features == {}


def test_bytes_become_numbers_from_0_to_1() -> None:
    inputs = images()
    expected = inputs.flatten(1).double() / 255
    logits = Network(Answering(flatten))(inputs).logits
    assert logits.dtype == torch.float32
    assert torch.allclose(logits.double(), expected, atol=1e-7)


def test_floats_are_left_as_they_are() -> None:
    inputs = 300 * torch.randn(2, 1, 2, 2)
    assert torch.equal(Network(Answering(flatten))(inputs).logits, inputs.flatten(1))


def test_each_channel_is_normalised_by_its_own_mean_and_std() -> None:
    inputs = images(channels=2)
    network = Network(Answering(flatten), mean=[0.5, 0.25], std=[0.5, 2.0])
    first, second = (inputs.double() / 255).unbind(1)
    expected = torch.stack([(first - 0.5) / 0.5, (second - 0.25) / 2.0], 1).flatten(1)
    assert torch.allclose(network(inputs).logits.double(), expected, atol=1e-6)


def test_one_value_normalises_every_channel() -> None:
    inputs = images(channels=3)
    shared = Network(Answering(flatten), mean=[0.5], std=[0.2])
    each = Network(Answering(flatten), mean=[0.5] * 3, std=[0.2] * 3)
    assert torch.equal(shared(inputs).logits, each(inputs).logits)


def test_normalisation_is_no_part_of_the_saved_state() -> None:
    network = Network(nn.Linear(2, 2), mean=[0.5], std=[0.5])
    assert set(network.state_dict()) == {"model.weight", "model.bias"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_answers_are_float32_in_every_precision(precision: str) -> None:
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), mean=[0.1], std=[0.3])
    inputs = images(5)
    exact = network(inputs).logits
    logits = set_precision(network, precision)(inputs).logits
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, exact, atol=0.05)
    assert network.mean is not None
    assert network.mean.dtype == torch.float32


def test_double_stays_double() -> None:
    assert Network(nn.Linear(3, 2).double())(torch.randn(1, 3)).logits.dtype == torch.float64


@pytest.mark.parametrize(
    ("answer", "came"),
    [
        (lambda x: x, r"a torch.float32 tensor of shape \(2, 1, 2, 2\) for a batch of 2"),
        (lambda x: x.flatten(), r"a torch.float32 tensor of shape \(8,\) for a batch of 2"),
        (lambda x: x[:1].flatten(1), r"a torch.float32 tensor of shape \(1, 4\) for a batch of 2"),
        (lambda x: x.flatten(1).argmax(1, True), r"a torch.int64 tensor of shape \(2, 1\)"),
        (lambda x: (x.flatten(1),), "answered with tuple;"),
        (lambda x: {"scores": x, "loss": x}, "answered with dict with keys scores, loss;"),
        (lambda x: None, "answered with NoneType;"),
    ],
    ids=["feature map", "flat", "short", "classes", "tuple", "other keys", "nothing"],
)
def test_anything_but_logits_is_refused(answer: Callable[[Tensor], object], came: str) -> None:
    network = Network(Answering(answer), where="teacher.model")
    with pytest.raises(ModelError, match=came) as caught:
        network(images())
    assert str(caught.value).startswith("teacher.model: Answering answered with ")
    assert "allowed is a tensor of floats of shape (batch, classes)" in str(caught.value)
    assert str(caught.value).endswith("Wrap the model so that it returns its logits.")


def test_normalisation_for_other_channels_is_refused() -> None:
    network = Network(Answering(flatten), where="teacher.model", mean=[0.1, 0.2, 0.3])
    with pytest.raises(ModelError) as caught:
        network(images())
    assert str(caught.value) == (
        "teacher.model.mean: has 3 values, but the inputs have 1 channels (shape (2, 1, 2, 2)). "
        "Give one value, or one for each channel."
    )


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([], None, "model.mean: is empty. Give one value, or one for each channel."),
        ([0.5], [0.5, 0.0], "model.std: must be above 0 for every channel; got [0.5, 0.0]."),
    ],
    ids=["empty", "zero"],
)
def test_impossible_normalisation_is_refused(
    mean: list[float], std: list[float] | None, message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        Network(nn.Identity(), mean=mean, std=std)
    assert str(caught.value) == message


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        set_precision(Network(nn.Identity(), where="teacher"), "int8")
    assert str(caught.value) == (
        "teacher: precision 'int8' is not known; allowed are float32, bfloat16, float16."
    )


@given(
    arrays.arrays(
        st.sampled_from([np.dtype(d) for d in ("u1", "<i8", ">i4", "<f4", ">f8")]),
        arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
        elements=st.integers(0, 100),
    ),
    st.booleans(),
    st.booleans(),
)
def test_prepared_arrays_keep_their_values(
    inputs: np.ndarray, is_writable: bool, is_reversed: bool
) -> None:
    inputs = inputs[::-1] if is_reversed else inputs
    inputs.setflags(write=is_writable)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = prepare(inputs, CPU)
    assert np.array_equal(tensor.numpy(), inputs)


def test_preparing_shares_memory_unless_it_is_read_only() -> None:
    inputs = np.zeros((2, 3), np.float32)
    assert prepare(inputs, CPU).numpy().ctypes.data == inputs.ctypes.data
    inputs.setflags(write=False)
    prepare(inputs, CPU)[0, 0] = 1
    assert inputs[0, 0] == 0
