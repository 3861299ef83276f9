"""The shape of the tail: what a basis keeps, what a student is asked to match, and its limits."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.losses import soft_targets
from pipeline.targets import (
    Basis,
    Targets,
    TargetSpec,
    decode,
    decode_basis,
    encode,
    encode_basis,
    fit_basis,
    low_rank_logits,
    low_rank_probs,
    tail_mass,
)
from pipeline.targets.low_rank.basis import encode_codes, shape_logits
from pipeline.targets.low_rank.steps import even_steps, most_bytes, steps_of, unpack_steps

CLASSES, HIDDEN, RANK, K = 200, 24, 12, 4


def draw_logits(positions: int, seed: int) -> Tensor:
    """Draw logits as a language model makes them: a linear map of fewer hidden numbers."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(CLASSES, HIDDEN, generator=torch.Generator().manual_seed(9))
    spread = torch.linspace(1.5, 0.05, HIDDEN)
    bias = 2 * torch.randn(CLASSES, generator=torch.Generator().manual_seed(8))
    return torch.randn(positions, HIDDEN, generator=generator) * spread @ head.T + bias


def blocks_of(logits: Tensor) -> Callable[[], Iterator[Tensor]]:
    return lambda: iter([logits[start : start + 50] for start in range(0, len(logits), 50)])


@pytest.fixture(scope="module")
def basis() -> Basis:
    return fit_basis(blocks_of(draw_logits(400, seed=0)), RANK, seed=0)


def make_targets(basis: Basis | None, logits: Tensor) -> Targets:
    spec = TargetSpec("top_k", CLASSES, K, rank=RANK)
    return decode(spec, encode(spec, logits, basis or None), basis)


def decode_codes(packed: NDArray[np.uint8], rank: int) -> Tensor:
    return unpack_steps(torch.from_numpy(packed), even_steps(rank))


def divergence(logits: Tensor, targets: Targets, temperature: float) -> float:
    """Mean KL(teacher || decoded) over positions."""
    teacher = (logits / temperature).log_softmax(1)
    decoded = low_rank_logits(targets, temperature).log_softmax(1)
    return float((teacher.exp() * (teacher - decoded)).sum(1).mean())


def uniform_divergence(logits: Tensor, targets: Targets, temperature: float) -> float:
    """The same with the tail's exact mass spread evenly."""
    flat = Basis(torch.zeros(CLASSES), torch.ones(CLASSES), torch.zeros(CLASSES, 1))
    changed = Targets(
        CLASSES, targets.logits, targets.classes, targets.tail, targets.nodes,
        codes=torch.zeros(len(logits), 1), basis=flat,
    )  # fmt: skip
    return divergence(logits, changed, temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_the_shape_says_most_of_what_the_mass_alone_leaves_out(
    basis: Basis, temperature: float
) -> None:
    logits = draw_logits(100, seed=1)  # positions that the basis was not fitted on
    targets = make_targets(basis, logits)
    assert divergence(logits, targets, temperature) < 0.5 * uniform_divergence(
        logits, targets, temperature
    )


@pytest.mark.parametrize("temperature", [1.0, 1.7, 4.0])
def test_kept_classes_and_the_mass_of_the_tail_are_exact(basis: Basis, temperature: float) -> None:
    logits = draw_logits(20, seed=2)
    targets = make_targets(basis, logits)
    assert targets.classes is not None
    probs, log_probs = low_rank_probs(targets, temperature)
    torch.testing.assert_close(probs, log_probs.softmax(1), atol=1e-6, rtol=1e-4)
    tail = 1 - probs.gather(1, targets.classes).sum(1)
    torch.testing.assert_close(tail, tail_mass(targets, temperature), atol=1e-5, rtol=0)


def test_codes_are_those_of_weighted_least_squares(basis: Basis) -> None:
    logits = draw_logits(8, seed=3)
    centred = logits - logits.mean(1, keepdim=True) - basis.bias
    root = basis.weights.sqrt()
    wanted = torch.linalg.lstsq(basis.vectors * root[:, None], (centred * root).T).solution.T
    codes = decode_codes(encode_codes(basis, logits, even_steps(RANK)), RANK)
    within = wanted.abs() < 7
    assert (codes - wanted).abs()[within].max() <= 0.5 + 1e-3
    assert (codes[~within].abs() == 7).all()


def test_a_constant_added_to_a_position_changes_nothing(basis: Basis) -> None:
    logits = draw_logits(8, seed=4)
    steps = even_steps(RANK)
    assert (encode_codes(basis, logits, steps) == encode_codes(basis, logits + 50.0, steps)).all()


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_codes_of_any_rank_come_back(rank: int) -> None:
    basis = fit_basis(blocks_of(draw_logits(100, seed=0)), rank, seed=0)
    packed = encode_codes(basis, draw_logits(30, seed=5), even_steps(rank))
    assert packed.shape == (30, math.ceil(rank / 2))
    codes = decode_codes(packed, rank)
    assert codes.shape == (30, rank)
    assert codes.abs().max() <= 7
    assert len(set(codes.flatten().tolist())) > 3


def test_the_same_logits_give_the_same_basis_in_any_blocks() -> None:
    logits = draw_logits(200, seed=0)
    first, second = (fit_basis(blocks_of(logits), 6, seed=0) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors)
    other = fit_basis(lambda: iter([logits[:37], logits[37:]]), 6, seed=0)
    torch.testing.assert_close(shape_span(other), shape_span(first), atol=1e-2, rtol=0)


def shape_span(basis: Basis) -> Tensor:
    """The projection onto the directions, whatever their order and length."""
    directions: Tensor = torch.linalg.qr(basis.vectors.double())[0]
    return directions @ directions.T


def test_a_basis_comes_back_as_it_was_kept(basis: Basis) -> None:
    again = decode_basis(encode_basis(basis), TargetSpec("top_k", CLASSES, K, rank=RANK))
    for name in ("bias", "weights", "vectors"):
        assert torch.equal(getattr(again, name), getattr(basis, name))
    codes = torch.ones(2, RANK)
    assert torch.equal(shape_logits(again, codes), shape_logits(basis, codes))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_gradients_are_the_derivatives(basis: Basis, temperature: float) -> None:
    targets = make_targets(basis, draw_logits(3, seed=6))
    logits = draw_logits(3, seed=7).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: soft_targets(x, targets, temperature=temperature, tail="low_rank"),
        logits,
        atol=1e-4,
    )


def test_a_student_that_equals_what_was_kept_has_no_loss(basis: Basis) -> None:
    targets = make_targets(basis, draw_logits(10, seed=6))
    student = low_rank_logits(targets, 2.0) * 2.0
    assert abs(float(soft_targets(student, targets, temperature=2.0))) < 1e-6


def test_the_shape_is_what_a_student_learns_where_it_was_kept(basis: Basis) -> None:
    targets, student = make_targets(basis, draw_logits(5, seed=6)), draw_logits(5, seed=7)
    by_default = soft_targets(student, targets)
    assert torch.equal(by_default, soft_targets(student, targets, tail="low_rank"))
    assert by_default > soft_targets(student, targets, tail="bucket")


def test_targets_without_a_shape_say_so() -> None:
    logits = draw_logits(5, seed=6)
    spec = TargetSpec("top_k", CLASSES, K)
    targets = decode(spec, encode(spec, logits))
    with pytest.raises(TargetError, match=r"tail 'low_rank' needs a cache that kept the tail's"):
        soft_targets(logits, targets, tail="low_rank")


def test_a_rank_that_nothing_can_be_learned_for_is_refused() -> None:
    with pytest.raises(TargetError, match=r"rank: must be below 10, .* 200 classes and 10 posi"):
        fit_basis(blocks_of(draw_logits(10, seed=0)), 10, seed=0)


def test_logits_that_are_not_finite_are_refused() -> None:
    logits = draw_logits(50, seed=0)
    logits[3, 4] = math.nan
    with pytest.raises(TargetError, match="is NaN or infinite among the positions"):
        fit_basis(blocks_of(logits), 4, seed=0)


def of_bytes(size_bytes: int, rank: int = 100) -> Basis:
    return fit_basis(blocks_of(draw_logits(400, seed=0)), rank, 0, size_bytes)


def divergence_of_bytes(size_bytes: int, temperature: float) -> float:
    basis, logits = of_bytes(size_bytes), draw_logits(100, seed=1)
    spec = TargetSpec("top_k", CLASSES, K, rank=basis.rank, bits=basis.bits)
    return divergence(logits, decode(spec, encode(spec, logits, basis), basis), temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_bytes_that_are_shared_out_say_more_than_4_bits_a_direction(temperature: float) -> None:
    basis, logits = fit_basis(blocks_of(draw_logits(400, seed=0)), 12, 0), draw_logits(100, seed=1)
    even = divergence(logits, make_targets(basis, logits), temperature)
    assert divergence_of_bytes(6, temperature) < 0.7 * even  # as many bytes
    assert divergence_of_bytes(9, temperature) < 0.5 * divergence_of_bytes(5, temperature)


def test_codes_fill_the_bytes_that_were_given() -> None:
    logits = draw_logits(9, seed=1)
    for size_bytes in (1, 3, 8):
        basis = of_bytes(size_bytes)
        steps = steps_of(basis.bits)
        assert sum(each.size_bytes for each in steps) == size_bytes
        assert sum(each.bits * each.count for each in steps) == 8 * size_bytes
        assert encode_codes(basis, logits, steps).shape == (9, size_bytes)


def test_a_rank_beside_bytes_is_the_most_directions() -> None:
    assert of_bytes(8).rank > 16
    assert of_bytes(8, rank=16).bits == ((4, 16),)


def test_more_bytes_than_there_are_directions_for_are_refused() -> None:
    logits = blocks_of(draw_logits(10, seed=0))
    assert fit_basis(logits, 99, 0, most_bytes(9)).bits == ((4, 8),)
    with pytest.raises(TargetError, match=r"tail.bytes: must be at most 4, .* 10 posi.* got 5"):
        fit_basis(logits, 99, 0, 5)


def test_directions_are_those_that_lose_least_divergence() -> None:
    """Against the best for squared error, where what varies most is never probable."""
    logits = draw_logits(400, seed=0)
    generator = torch.Generator().manual_seed(5)
    logits[:, 100:] = (
        3 * torch.randn(400, 4, generator=generator) @ torch.randn(4, 100, generator=generator) - 30
    )
    basis = fit_basis(blocks_of(logits), 8, 0, 4)
    chosen = project(logits, basis.vectors, basis.weights, basis.bias)
    centred = logits - logits.mean(1, keepdim=True) - basis.bias
    even = torch.linalg.svd(centred, full_matrices=False).Vh[:8].T
    plain = project(logits, even, torch.ones(CLASSES), basis.bias)
    lost = [squared_logit_error(logits, each) for each in (chosen, plain)]
    assert lost[0] < 0.95 * lost[1]


def project(logits: Tensor, vectors: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    centred = logits - logits.mean(1, keepdim=True) - bias
    root = weights.sqrt()
    along = torch.linalg.lstsq(vectors * root[:, None], (centred * root).T).solution.T
    rebuilt: Tensor = along @ vectors.T + bias
    return rebuilt


def squared_logit_error(logits: Tensor, rebuilt: Tensor) -> float:
    """Twice the divergence to second order, over the temperatures that are served."""
    total = 0.0
    for temperature in (1.0, 2.0, 4.0):
        probs, error = (logits / temperature).softmax(1), logits - rebuilt
        mean = (probs * error).sum(1, keepdim=True)
        total += float((probs * (error - mean).square()).sum())
    return total
