import pytest
import torch

from pipeline.compute import tell_later


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_numbers_are_told_as_they_were_when_asked_for(device: str) -> None:
    numbers = [torch.tensor(each, device=device) for each in (1.0, 2.5)]
    tell = tell_later(numbers)
    assert tell() == [1.0, 2.5]


def test_numbers_that_are_known_already_are_told_as_they_are() -> None:
    assert tell_later([2.5, torch.tensor(1.0)])() == [2.5, 1.0]
    assert tell_later([])() == []
