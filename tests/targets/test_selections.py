"""top_p, sampled and hybrid: what is kept, and that draws are unbiased at every temperature."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pipeline.targets import (
    Targets,
    TargetSpec,
    decode,
    encode,
    kept_mass,
    nodes_with,
    soften,
    tail_mass,
    target_fields,
    uniforms,
    weigh_draws,
)
from pipeline.targets.rounding import LOWEST_LOGIT

CLASSES = 40
SAMPLED = TargetSpec("sampled", CLASSES, 0, draws=16)
HYBRID = TargetSpec("hybrid", CLASSES, 5, draws=16)
SPECS = [SAMPLED, HYBRID]


def draw_logits(positions: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(positions, CLASSES, generator=generator) * scale


def numbers(spec: TargetSpec, positions: int, seed: int = 0) -> NDArray[np.float64]:
    return uniforms(seed, [("a", 0)], [positions], spec.draws)


def make(spec: TargetSpec, logits: Tensor, seed: int = 0) -> Targets:
    return decode(spec, encode(spec, logits, numbers=numbers(spec, len(logits), seed)))


def estimate(targets: Targets, temperature: float) -> Tensor:
    """The distribution that a student is trained on. Shapes: returns (P, C)."""
    assert targets.classes is not None
    assert targets.drawn is not None
    weights, _ = weigh_draws(targets, temperature)
    whole = torch.zeros(len(targets), targets.class_count)
    whole.scatter_add_(1, targets.classes, soften(targets, temperature).log_probs.exp())
    return whole.scatter_add_(1, targets.drawn, weights)


def slow_top_p(row: list[float], p: float, k_max: int, k_min: int) -> list[int]:
    total = sum(math.exp(x) for x in row)
    order = sorted(range(len(row)), key=lambda c: (-row[c], c))
    reached, count = 0.0, 0
    while count < k_max and (reached < p or count < k_min):
        reached += math.exp(row[order[count]]) / total
        count += 1
    return order[:count]


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.05, 0.99), st.integers(1, 20), st.integers(1, 4))
def test_top_p_is_the_smallest_set_that_reaches_p(
    seed: int, p: float, k_max: int, k_min: int
) -> None:
    logits, k_min = draw_logits(6, seed), min(k_min, k_max)
    spec = TargetSpec("top_p", CLASSES, k_max, p=p, k_min=k_min)
    arrays = encode(spec, logits)
    for row, classes, count in zip(
        logits.tolist(), arrays["classes"].tolist(), arrays["count"].tolist(), strict=True
    ):
        assert classes[:count] == slow_top_p(row, p, k_max, k_min)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_the_tail_of_top_p_is_all_that_was_not_counted(temperature: float) -> None:
    logits = draw_logits(50)
    spec = TargetSpec("top_p", CLASSES, 12, p=0.7)
    targets = decode(spec, encode(spec, logits))
    assert targets.count is not None
    assert targets.is_spare is not None
    assert targets.classes is not None
    assert len(set(targets.count.tolist())) > 3
    kept = torch.zeros(50, CLASSES, dtype=torch.bool).scatter(1, targets.classes, True)
    truth = (logits / temperature).softmax(1).masked_fill(kept, 0.0).sum(1)
    torch.testing.assert_close(tail_mass(targets, temperature), truth, atol=2e-4, rtol=0)
    torch.testing.assert_close(
        kept_mass(targets, temperature) + tail_mass(targets, temperature), torch.ones(50)
    )
    assert bool((targets.logits[targets.is_spare] == LOWEST_LOGIT).all())


def test_top_p_that_is_never_reached_keeps_k_max() -> None:
    spec = TargetSpec("top_p", CLASSES, 3, p=0.999)
    assert encode(spec, draw_logits(4, scale=0.1))["count"].tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
@pytest.mark.parametrize(("proposal", "temperature"), [(1.0, 1.0), (1.0, 2.0), (2.0, 1.0)])
def test_draws_are_unbiased(spec: TargetSpec, proposal: float, temperature: float) -> None:
    """|z| of every class below 5 over 20,000 draws, at the temperature of the draws and another."""
    spec = TargetSpec(
        spec.kind, CLASSES, spec.k, nodes_with([proposal]), draws=20, proposal_temperature=proposal
    )
    row, repeats = draw_logits(1, seed=3), 1000
    found = estimate(make(spec, row.expand(repeats, -1)), temperature).double()
    truth = (row.double() / temperature).softmax(1)[0]
    error = found.std(0) / math.sqrt(repeats)
    seen = error > 0
    # What a cache rounds, by 0.0006 of the tail's log mass and 0.001 of a logit, is no bias.
    z = ((found.mean(0) - truth).abs() - 0.002 * truth)[seen] / error[seen]
    assert float(z.max()) < 5
    torch.testing.assert_close(found.mean(0)[~seen], truth[~seen], atol=1e-3, rtol=2e-3)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_squared_error_of_draws_is_its_closed_form(spec: TargetSpec) -> None:
    """E||estimate - t||^2 = (m^2 - sum of t^2 over the tail) / draws, m being the tail's mass."""
    row = draw_logits(1, seed=4)
    found = estimate(make(spec, row.expand(4000, -1)), 1.0)
    truth = row.softmax(1)[0]
    tail = truth.clone()
    tail[row[0].topk(spec.k).indices] = 0
    expected = (tail.sum() ** 2 - tail.pow(2).sum()) / spec.draws
    squared = (found - truth).pow(2).sum(1).mean()
    assert float(squared) == pytest.approx(float(expected), rel=0.05)


def test_a_kept_class_is_never_drawn_and_what_has_no_mass_neither() -> None:
    logits = draw_logits(300, seed=5)
    logits[:, 7] = -1e5
    targets = make(HYBRID, logits)
    assert targets.classes is not None
    assert targets.drawn is not None
    assert not bool((targets.drawn[:, :, None] == targets.classes[:, None]).any())
    assert not bool((targets.drawn == 7).any())


@pytest.mark.parametrize("value", [0.0, 1 - 2**-53])
def test_the_ends_of_the_random_numbers_draw_real_classes(value: float) -> None:
    logits = draw_logits(2, seed=6)
    logits[:, [0, -1]] = -1e5
    ends = np.full((2, HYBRID.draws), value)
    drawn = encode(HYBRID, logits, numbers=ends)["drawn"]
    assert drawn.min() > 0
    assert drawn.max() < CLASSES - 1


def test_draws_belong_to_sample_view_and_position_not_to_the_batch() -> None:
    together = uniforms(1, [("a", 0), ("b", 0), ("a", 1)], [3, 0, 2], 4)
    assert together.shape == (5, 4)
    np.testing.assert_array_equal(together[:3], uniforms(1, [("a", 0)], [3], 4))
    np.testing.assert_array_equal(together[3:], uniforms(1, [("a", 1)], [2], 4))
    assert not np.array_equal(together[:2], together[3:])
    assert not np.array_equal(together[:3], uniforms(2, [("a", 0)], [3], 4))
    assert not np.array_equal(together[0], together[1])
    assert uniforms(1, [], [], 4).shape == (0, 4)


def test_sampled_knows_the_first_choice_though_it_may_not_be_drawn() -> None:
    logits = draw_logits(30, seed=7)
    targets = make(SAMPLED, logits)
    assert torch.equal(targets.top_classes(), logits.argmax(1))
    assert targets.logits.shape == (30, 0)
    torch.testing.assert_close(tail_mass(targets, 3.0), torch.ones(30))


@pytest.mark.parametrize("class_count", [32_000, 50_257, 151_936, 262_144])
@pytest.mark.parametrize("kind", ["top_p", "sampled", "hybrid"])
def test_large_vocabularies_come_back(class_count: int, kind: str) -> None:
    k, draws = {"top_p": (8, 0), "sampled": (0, 6), "hybrid": (4, 6)}[kind]
    spec = TargetSpec(kind, class_count, k, draws=draws, p=0.9)  # type: ignore[arg-type]
    logits = torch.randn(3, class_count, generator=torch.Generator().manual_seed(1))
    logits[:, -1] = 20.0
    logits[:, -2] = 18.0
    arrays = encode(spec, logits, numbers=numbers(spec, 3) if draws else None)
    assert {field.name: (field.dtype, (3, *field.shape)) for field in target_fields(spec)} == {
        name: (array.dtype.name, array.shape) for name, array in arrays.items()
    }
    assert decode(spec, arrays).top_classes().tolist() == [class_count - 1] * 3


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.01, 30), st.integers(0, 20))
def test_a_tail_of_16_bits_knows_its_mass_to_a_thousandth(seed: int, scale: float, k: int) -> None:
    logits = draw_logits(4, seed, scale)
    spec = TargetSpec("hybrid" if k else "sampled", CLASSES, k, draws=1)
    exact = TargetSpec("top_k", CLASSES, k) if k else None
    targets = make(spec, logits)
    assert targets.tail is not None
    assert targets.tail.dtype == torch.float32
    if exact:
        wide = decode(exact, encode(exact, logits))
        for temperature in (1.0, 1.7, 2.0, 11.0):
            torch.testing.assert_close(
                tail_mass(targets, temperature), tail_mass(wide, temperature), atol=1e-3, rtol=0
            )
