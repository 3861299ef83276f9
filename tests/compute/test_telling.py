import pytest
import torch

from pipeline.compute import tell_later


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_numbers_are_told_as_they_were_when_asked_for(device: str) -> None:
    numbers = [torch.tensor(each, device=device) for each in (1.0, 2.5)]
    tell = tell_later(numbers)
    assert tell() == [1.0, 2.5]
