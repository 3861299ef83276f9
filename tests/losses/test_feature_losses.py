"""Losses of features against slow loops, their invariances, and their shares of a batch."""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.losses import (
    attention_transfer,
    cosine,
    hint,
    make_projection,
    relational_angle,
    relational_distance,
    similarity,
)
from pipeline.losses.features import relations

Loss = Callable[..., Tensor]
RELATIONS: list[Loss] = [relational_distance, relational_angle, similarity]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


STUDENT, TEACHER = draw(6, 4), draw(6, 7, seed=1)
OWN_MAPS, THEIR_MAPS = draw(5, 3, 4, 2, seed=2), draw(5, 6, 4, 2, seed=3)


def huber(apart: float) -> float:
    return apart**2 / 2 if abs(apart) < 1 else abs(apart) - 0.5


def minus(one: list[float], other: list[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def norm(one: list[float]) -> float:
    return math.sqrt(dot(one, one))


def test_a_hint_is_the_mean_squared_difference() -> None:
    wanted, other = OWN_MAPS.flatten().tolist(), draw(5, 3, 4, 2, seed=4)
    expected = sum((a - b) ** 2 for a, b in zip(wanted, other.flatten().tolist(), strict=True))
    assert float(hint(OWN_MAPS, other)) == pytest.approx(expected / len(wanted))


def attention_by_loops(own: Tensor, theirs: Tensor, exponent: float, convention: str) -> float:
    total = 0.0
    for one, other in zip(own.tolist(), theirs.tolist(), strict=True):
        maps = []
        for channels in (one, other):
            places = [
                sum(abs(channel[row][column]) ** exponent for channel in channels)
                for row, column in product(range(4), range(2))
            ]
            maps.append([each / norm(places) for each in places])
        apart = minus(*maps)
        total += dot(apart, apart) / 8 if convention == "code" else norm(apart)
    return total / 5


@pytest.mark.parametrize("convention", ["code", "paper"])
@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_attention_transfer_is_what_loops_say(convention: str, exponent: float) -> None:
    expected = attention_by_loops(OWN_MAPS, THEIR_MAPS, exponent, convention)
    found = attention_transfer(OWN_MAPS, THEIR_MAPS, exponent=exponent, convention=convention)
    assert float(found) == pytest.approx(expected)


def distances_by_loops(features: Tensor) -> dict[tuple[int, int], float]:
    points, count = features.tolist(), len(features)
    found = {(i, j): norm(minus(points[i], points[j])) for i in range(count) for j in range(count)}
    positive = [each for each in found.values() if each > 0]
    return {pair: each / (sum(positive) / len(positive)) for pair, each in found.items()}


def test_relational_distance_is_what_loops_say() -> None:
    own, theirs = distances_by_loops(STUDENT), distances_by_loops(TEACHER)
    expected = sum(huber(own[pair] - theirs[pair]) for pair in own) / 36
    assert float(relational_distance(STUDENT, TEACHER)) == pytest.approx(expected)


def cosine_by_loops(points: list[list[float]], i: int, j: int, k: int) -> float:
    one, other = minus(points[i], points[j]), minus(points[k], points[j])
    length = norm(one) * norm(other)
    return dot(one, other) / length if length else 0.0


@pytest.mark.parametrize("block", [1, 36, 80, 2**20])
def test_relational_angle_is_what_loops_say_in_blocks_of_any_size(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relations, "BLOCK_ELEMENTS", block)
    own, theirs = STUDENT.tolist(), TEACHER.tolist()
    expected = sum(
        huber(cosine_by_loops(own, *triple) - cosine_by_loops(theirs, *triple))
        for triple in product(range(6), repeat=3)
    )
    assert float(relational_angle(STUDENT, TEACHER)) == pytest.approx(expected / 6**3)
    leaf = STUDENT.clone().requires_grad_()
    (in_blocks,) = torch.autograd.grad(relational_angle(leaf, TEACHER), leaf)
    monkeypatch.setattr(relations, "BLOCK_ELEMENTS", 2**20)
    (at_once,) = torch.autograd.grad(relational_angle(leaf, TEACHER), leaf)
    assert torch.allclose(in_blocks, at_once)


def test_similarity_is_what_loops_say() -> None:
    total = 0.0
    for i in range(6):
        rows = []
        for points in (STUDENT.tolist(), TEACHER.tolist()):
            row = [dot(points[i], other) for other in points]
            rows.append([each / norm(row) for each in row])
        total += sum(each**2 for each in minus(*rows))
    assert float(similarity(STUDENT, TEACHER)) == pytest.approx(total / 36)


@pytest.mark.parametrize("loss", [*RELATIONS, cosine, hint], ids=lambda loss: loss.__name__)
def test_gradients_are_the_derivatives(loss: Loss) -> None:
    leaf = STUDENT.clone().requires_grad_()
    wanted = TEACHER if loss in RELATIONS else draw(6, 4, seed=5)
    assert torch.autograd.gradcheck(lambda own: loss(own, wanted), leaf)


@pytest.mark.parametrize("convention", ["code", "paper"])
def test_gradients_of_attention_transfer_are_the_derivatives(convention: str) -> None:
    leaf = OWN_MAPS.clone().requires_grad_()
    check = lambda own: attention_transfer(own, THEIR_MAPS, convention=convention)  # noqa: E731
    assert torch.autograd.gradcheck(check, leaf)


def rotation(size: int, seed: int) -> Tensor:
    orthogonal: Tensor = torch.linalg.qr(draw(size, size, seed=seed))[0]
    return orthogonal


@pytest.mark.parametrize("side", [0, 1], ids=["student", "teacher"])
@pytest.mark.parametrize("loss", RELATIONS[:2], ids=lambda loss: loss.__name__)
@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100), shift=st.floats(-9, 9))
def test_relations_do_not_see_where_and_how_large_features_are(
    loss: Loss, side: int, seed: int, scale: float, shift: float
) -> None:
    pair = [STUDENT, TEACHER]
    before = float(loss(*pair))
    pair[side] = scale * pair[side] @ rotation(pair[side].shape[1], seed) + shift
    assert float(loss(*pair)) == pytest.approx(before, rel=1e-4, abs=1e-9)


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100))
def test_similarity_does_not_see_rotation_and_scale(seed: int, scale: float) -> None:
    turned = scale * STUDENT @ rotation(4, seed)
    assert float(similarity(turned, TEACHER)) == pytest.approx(float(similarity(STUDENT, TEACHER)))


@given(scale=st.floats(1e-3, 1e3), exponent=st.sampled_from([1.0, 2.0, 4.0]))
def test_attention_transfer_does_not_see_how_strong_a_map_is(scale: float, exponent: float) -> None:
    before = attention_transfer(OWN_MAPS, THEIR_MAPS, exponent=exponent)
    after = attention_transfer(scale * OWN_MAPS, THEIR_MAPS, exponent=exponent)
    assert float(after) == pytest.approx(float(before), rel=1e-6)


def test_maps_and_ready_attention_maps_are_compared_alike() -> None:
    ready = THEIR_MAPS.square().sum(1)
    both = attention_transfer(OWN_MAPS, THEIR_MAPS)
    assert torch.allclose(attention_transfer(OWN_MAPS, ready), both)


def test_the_larger_map_is_averaged_down() -> None:
    large = THEIR_MAPS.repeat_interleave(2, 2).repeat_interleave(3, 3)
    small = attention_transfer(OWN_MAPS, THEIR_MAPS)
    assert torch.allclose(attention_transfer(OWN_MAPS, large), small)
    assert torch.allclose(attention_transfer(large, OWN_MAPS), small)


@pytest.mark.parametrize("convention", ["code", "paper"])
@pytest.mark.parametrize("own", [torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)])
def test_maps_of_nothing_and_equal_maps_have_finite_gradients(own: Tensor, convention: str) -> None:
    leaf = own.clone().requires_grad_()
    value = attention_transfer(leaf, torch.ones(2, 3, 2, 2), convention=convention)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("loss", RELATIONS, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("rows", [0, 1, 2, 3], ids=lambda rows: f"{rows} rows")
def test_equal_and_few_samples_have_finite_gradients(loss: Loss, rows: int) -> None:
    leaf = torch.ones(rows, 4, dtype=torch.float64).requires_grad_()
    value = loss(leaf, draw(rows, 5))
    (gradient,) = torch.autograd.grad(value, leaf)
    assert bool(value.detach().isfinite())
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("loss", "own", "theirs"),
    [
        (hint, OWN_MAPS, draw(5, 3, 4, 2, seed=4)),
        (attention_transfer, OWN_MAPS, THEIR_MAPS),
        (cosine, STUDENT, draw(6, 4, seed=5)),
    ],
    ids=["hint", "attention_transfer", "cosine"],
)
def test_shares_of_a_batch_add_up_to_the_whole(loss: Loss, own: Tensor, theirs: Tensor) -> None:
    count = float(len(own))
    parts = [loss(own[cut], theirs[cut], count=count) for cut in (slice(2), slice(2, None))]
    assert torch.allclose(torch.stack(parts).sum(), loss(own, theirs))


@pytest.mark.parametrize("loss", RELATIONS, ids=lambda loss: loss.__name__)
def test_relations_of_shares_are_averaged_by_their_size(loss: Loss) -> None:
    part = loss(STUDENT[:2], TEACHER[:2], count=6.0)
    assert torch.allclose(part, loss(STUDENT[:2], TEACHER[:2]) * 2 / 6)


@pytest.mark.parametrize("loss", RELATIONS, ids=lambda loss: loss.__name__)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(loss: Loss) -> None:
    leaf = STUDENT.clone().requires_grad_()
    value = loss(leaf, STUDENT)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert float(value.detach()) == pytest.approx(0)
    assert float(gradient.abs().max()) == pytest.approx(0)


def test_no_gradient_reaches_the_teacher() -> None:
    leaf = TEACHER.clone().requires_grad_()
    for loss in RELATIONS:
        assert not loss(STUDENT, leaf).requires_grad


def test_angles_keep_no_cube_in_memory() -> None:
    leaf = torch.randn(200, 8).requires_grad_()
    kept = list[int]()

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.autograd.grad(relational_angle(leaf, torch.randn(200, 8)), leaf)
    assert max(kept) <= 2 * relations.BLOCK_ELEMENTS < 200**3


@given(
    own=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    theirs=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_a_projection_leads_from_any_shape_to_any_other(own: list[int], theirs: list[int]) -> None:
    projection = make_projection(tuple(own), tuple(theirs))
    assert projection(torch.randn(3, *own)).shape == (3, *theirs)


def test_a_projection_of_maps_is_as_small_as_a_matrix_between_channels() -> None:
    projection = make_projection((16, 9, 5), (64, 7, 7))
    assert sum(each.numel() for each in projection.parameters()) == 16 * 64


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(TargetError) as caught:
        hint(STUDENT, TEACHER)
    assert str(caught.value) == (
        "hint: the student's features have shape (6, 4), the teacher's (6, 7); they must be equal. "
        "Leave projection out, so that one is learned, or name another module of the student."
    )
    with pytest.raises(TargetError) as caught:
        attention_transfer(OWN_MAPS, TEACHER)
    assert str(caught.value) == (
        "attention_transfer: features have shape (6, 7); they must be maps, (n, channels, height, "
        "width), or attention maps, (n, height, width). Name a module whose answers are maps."
    )
