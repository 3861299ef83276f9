"""Steps of a few bits: what comes back, where it lies, and how bytes are shared out."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.targets.low_rank.steps import (
    DISTORTION,
    STEP,
    Steps,
    even_steps,
    most_bytes,
    pack_steps,
    share_out,
    steps_of,
    unpack_steps,
)

counts = st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(0, 17))


def kinds(numbers: tuple[int, int, int]) -> tuple[Steps, ...]:
    return steps_of(tuple(pair for pair in zip((4, 2, 1), numbers, strict=True) if pair[1]))


@given(counts.filter(any), st.integers(0, 3))
def test_every_code_comes_back(numbers: tuple[int, int, int], positions: int) -> None:
    steps = kinds(numbers)
    generator = torch.Generator().manual_seed(sum(numbers))
    columns = [
        torch.randint(0, each.highest + 1, (positions, each.count), generator=generator) - each.zero
        for each in steps
    ]
    values = torch.cat(columns, 1)
    packed = pack_steps(values, steps)
    assert packed.shape == (positions, sum(each.size_bytes for each in steps))
    assert torch.equal(unpack_steps(torch.from_numpy(packed), steps), values)


@given(counts.filter(any))
def test_what_lies_between_is_rounded_and_what_lies_outside_is_cut(
    numbers: tuple[int, int, int],
) -> None:
    steps = kinds(numbers)
    values = torch.linspace(-30, 30, 61)[:, None].expand(-1, sum(numbers)) + 0.1
    back = unpack_steps(torch.from_numpy(pack_steps(values, steps)), steps)
    ends = torch.tensor([each.zero for each in steps for _ in range(each.count)])
    inside = values.abs() <= ends
    assert bool(((back - values).abs()[inside] <= 0.5).all())
    assert torch.equal(back[~inside], (ends * values.sign())[~inside])


def test_the_first_code_of_a_byte_lies_in_its_lowest_bits() -> None:
    steps = steps_of(((4, 2), (2, 4), (1, 8)))
    codes = [15, 1, 0, 1, 2, 3, 1, 0, 0, 0, 0, 0, 1, 1]
    zeros = [7.5] * 2 + [1.5] * 4 + [0.5] * 8
    values = torch.tensor([codes], dtype=torch.float32) - torch.tensor(zeros)
    assert pack_steps(values, steps).tolist() == [[0x1F, 0b11100100, 0b11000001]]


def test_fifteen_steps_have_nothing_in_the_middle() -> None:
    packed = pack_steps(torch.tensor([[-9.0, 0.0, 0.4]]), even_steps(3))
    assert packed.tolist() == [[0x81, 0x88]]  # -7, 0; 0 and a spare half
    assert unpack_steps(torch.from_numpy(packed), even_steps(3)).tolist() == [[-7.0, 0.0, 0.0]]


def lost(variances: list[float], widths: list[int]) -> float:
    given_bits = [*widths, *[0] * (len(variances) - len(widths))]
    return sum(v * DISTORTION.get(w, 1.0) for v, w in zip(variances, given_bits, strict=True))


@pytest.mark.parametrize("size_bytes", [1, 2, 3])
@pytest.mark.parametrize("decay", [0.5, 0.8, 0.97])
def test_no_other_split_loses_less(size_bytes: int, decay: float) -> None:
    variances = [decay**i for i in range(30)]
    best = share_out(variances, size_bytes)
    assert sum(width * count for width, count in best) == 8 * size_bytes
    chosen = lost(variances, [width for width, count in best for _ in range(count)])
    for fours, twos in itertools.product(range(0, 7, 2), range(0, 13, 4)):
        ones = 8 * size_bytes - 4 * fours - 2 * twos
        if ones >= 0:
            other = lost(variances, [4] * fours + [2] * twos + [1] * ones)
            assert chosen <= other + 1e-9


def test_few_directions_get_all_the_bits_there_are() -> None:
    assert share_out([3.0, 2.0, 1.0, 0.5], most_bytes(4)) == ((4, 4),)


@pytest.mark.parametrize("width", [4, 2, 1])
def test_distortion_and_step_are_those_of_a_normal_number(width: int) -> None:
    values = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    steps = steps_of(((width, 1),))

    def error(step: float) -> float:
        back = unpack_steps(torch.from_numpy(pack_steps(values / step, steps)), steps) * step
        return float((back - values).square().mean())

    assert error(STEP[width]) == pytest.approx(DISTORTION[width], rel=0.02)
    assert min(error(STEP[width] * by) for by in np.linspace(0.8, 1.2, 9)) >= 0.98 * error(
        STEP[width]
    )
