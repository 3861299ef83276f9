"""One cache, every temperature: masses against the teacher's own softmax."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.targets import (
    Targets,
    TargetSpec,
    decode,
    encode,
    kept_mass,
    nodes_with,
    normalise,
    soften,
    tail_mass,
)

TWENTY = np.linspace(1, 20, 20).tolist()


def cut(logits: Tensor, k: int, exact: tuple[float, ...] = ()) -> Targets:
    spec = TargetSpec("top_k", logits.shape[1], k, nodes_with(exact))
    return decode(spec, encode(spec, logits))


def true_tail_mass(logits: Tensor, k: int, temperature: float) -> Tensor:
    probs = (logits.double() / temperature).softmax(1)
    return 1 - probs.gather(1, logits.topk(k, dim=1).indices).sum(1)


def classifier_like(positions: int = 500) -> Tensor:
    """Ten logits as a trained classifier's: one high, a few rivals, a wide field far below."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(positions, 10, generator=generator) * 6 - 8
    winners = torch.randint(10, (positions, 1), generator=generator)
    return logits.scatter(1, winners, 4 + 4 * torch.rand(positions, 1, generator=generator))


def language_like(positions: int = 40) -> Tensor:
    """Logits over 20,000 classes that fall with the log of the rank, with noise."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.arange(1, 20_001).log()
    slopes = 1 + torch.rand(positions, 1, generator=generator)
    return -slopes * ranks + torch.randn(positions, 20_000, generator=generator)


@pytest.mark.parametrize(
    ("logits", "k", "worst", "mean"),
    [(classifier_like(), 4, 0.01, 0.001), (language_like(), 64, 0.005, 0.001)],
    ids=["classifier-top-4", "language-top-64"],
)
def test_tail_mass_is_close_at_twenty_temperatures(
    logits: Tensor, k: int, worst: float, mean: float
) -> None:
    targets = cut(logits, k)
    errors = torch.stack(
        [(tail_mass(targets, t) - true_tail_mass(logits, k, t)).abs() for t in TWENTY]
    )
    assert errors.max() <= worst
    assert errors.mean() <= mean


@pytest.mark.parametrize("temperature", [1.0, 4 / 3, 2.0, 4.0, 8.0, 16.0, 1.5, 3.0, 10.0, 20.0])
def test_tail_mass_is_exact_at_stored_temperatures(temperature: float) -> None:
    logits = classifier_like()
    targets = cut(logits, 4, exact=(1.5, 3.0, 10.0, 20.0))
    true = true_tail_mass(logits, 4, temperature).float()
    assert torch.allclose(tail_mass(targets, temperature), true, rtol=1e-5, atol=1e-6)


def test_autocast_leaves_the_tail_mass_alone() -> None:
    targets = cut(classifier_like(), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = tail_mass(targets, 3.0)
    assert torch.equal(under_autocast, tail_mass(targets, 3.0))


@pytest.mark.parametrize("exact", [(1.01,), (5.0, 5.1, 5.2), (100.0,), (1.1, 1.2, 1.3, 1.6, 1.8)])
def test_more_exact_temperatures_do_no_harm_elsewhere(exact: tuple[float, ...]) -> None:
    logits = classifier_like()
    targets = cut(logits, 4, exact)
    for t in TWENTY:
        assert (tail_mass(targets, t) - true_tail_mass(logits, 4, t)).abs().max() <= 0.01


@pytest.mark.parametrize("share", [0.005, 0.1])
def test_a_padded_vocabulary_does_not_spoil_the_tail(share: float) -> None:
    logits = language_like()
    logits[:, : int(20_000 * share)] = -1e4
    targets = cut(logits, 64)
    for t in TWENTY:
        assert (tail_mass(targets, t) - true_tail_mass(logits, 64, t)).abs().max() <= 0.02


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(1, 50), st.integers(1, 12))
def test_kept_and_tail_mass_sum_to_one(seed: int, temperature: float, k: int) -> None:
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed)) * 8
    targets = cut(logits, k)
    total = kept_mass(targets, temperature) + tail_mass(targets, temperature)
    assert torch.allclose(total, torch.ones(5), atol=1e-6)


@pytest.mark.parametrize("kind", ["all", "top_k"])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_all_classes_give_the_teachers_softmax_at_any_temperature(
    kind: str, temperature: float
) -> None:
    logits = (classifier_like(20) * 64).round() / 64
    spec = TargetSpec("all" if kind == "all" else "top_k", 10, 10)
    targets = decode(spec, encode(spec, logits))
    soft = soften(targets, temperature)
    expected = (logits / temperature).log_softmax(1)
    if targets.classes is not None:
        expected = expected.gather(1, targets.classes)
    assert soft.log_tail is None
    assert torch.allclose(soft.log_probs, expected, rtol=2e-3, atol=1e-2)
    assert torch.equal(tail_mass(targets, temperature), torch.zeros(20))


def test_softened_log_probs_stay_finite_for_a_very_confident_teacher() -> None:
    logits = torch.tensor([[900.0, 0.0, -900.0, -4e4, -1e6]])
    soft = soften(cut(logits, 2), 1.0)
    assert soft.log_tail is not None
    assert bool(soft.log_probs.isfinite().all())
    assert soft.log_tail.tolist() == pytest.approx([-1800.0])


@pytest.mark.parametrize("temperature", [0.5, 0.0, -1.0, float("nan"), float("inf")])
def test_a_tail_is_not_known_below_temperature_1(temperature: float) -> None:
    with pytest.raises(TargetError, match="these targets allow 1 or above, as classes were left"):
        soften(cut(classifier_like(2), 4), temperature)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_all_classes_need_a_temperature_above_0(temperature: float) -> None:
    with pytest.raises(TargetError, match="cannot be served; these targets allow above 0"):
        soften(Targets(3, torch.zeros(1, 3)), temperature)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("first", [0.0, -40.0, -90.0, -500.0, -math.inf, 500.0])
def test_many_classes_have_the_logarithms_of_few(first: float, temperature: float) -> None:
    """Also where the first ones, which are looked at, are next to impossible, or all there is."""
    logits = torch.randn(5, 700, generator=torch.Generator().manual_seed(0))
    logits[1:, :64] += first
    expected = (logits.double() / temperature).log_softmax(1)
    probs, log_probs = normalise(logits.clone(), temperature, overwrite=True)
    torch.testing.assert_close(log_probs, expected.float(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(probs, expected.exp().float(), rtol=1e-4, atol=1e-30)
    assert normalise(logits[:0], temperature)[0].shape == (0, 700)
