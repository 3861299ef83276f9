"""The cosine loss against torch's own, a loop, and its shares of a batch."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_embedding_loss

from pipeline.errors import TargetError
from pipeline.losses import cosine


def draw(positions: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(positions, 7, generator=generator),
        torch.randn(positions, 7, generator=generator) * 3,
    )


@pytest.mark.parametrize("seed", range(3))
def test_it_is_torchs_own_with_the_target_1(seed: int) -> None:
    student, teacher = draw(11, seed)
    wanted = cosine_embedding_loss(student, teacher, torch.ones(11))
    torch.testing.assert_close(cosine(student, teacher), wanted)


def test_it_is_one_minus_the_cosine_of_each_angle() -> None:
    student, teacher = draw(5, 0)
    total = 0.0
    for own, other in zip(student.tolist(), teacher.tolist(), strict=True):
        product = sum(a * b for a, b in zip(own, other, strict=True))
        total += 1 - product / math.sqrt(sum(a * a for a in own) * sum(b * b for b in other))
    assert float(cosine(student, teacher)) == pytest.approx(total / 5, abs=1e-6)


def test_length_does_not_count_and_direction_does() -> None:
    student, _ = draw(4, 1)
    assert float(cosine(student, student * 9)) == pytest.approx(0, abs=1e-6)
    assert float(cosine(student, -student)) == pytest.approx(2, abs=1e-6)


def test_shares_of_a_batch_add_up_to_the_whole() -> None:
    student, teacher = draw(10, 2)
    parts = [cosine(student[cut], teacher[cut], count=10.0) for cut in (slice(3), slice(3, None))]
    torch.testing.assert_close(sum(parts), cosine(student, teacher))


def test_no_positions_have_no_loss_and_no_gradient() -> None:
    student = torch.zeros(0, 7, requires_grad=True)
    loss = cosine(student, torch.zeros(0, 7))
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == 0.0
    assert gradient.shape == (0, 7)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(TargetError) as caught:
        cosine(torch.zeros(3, 4), torch.zeros(3, 5))
    assert str(caught.value) == (
        "cosine: the student's features have shape (3, 4), the teacher's (3, 5); they must be "
        "equally many vectors and equally wide. Name a module of the student that is as wide as "
        "the teacher's, or set projection = true."
    )
