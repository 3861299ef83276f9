"""The quick rule of a low-rank tail says what the plain one does, of all classes rebuilt."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.losses.divergence import Probs, forward_kl
from pipeline.losses.soft_targets import soft_targets_term
from pipeline.losses.tails import compare_all
from pipeline.losses.term import Block, apply
from pipeline.targets import (
    Targets,
    TargetSpec,
    decode,
    encode,
    fit_basis,
    low_rank_probs,
)

POSITIONS, CLASSES = 30, 700
KINDS: dict[str, dict[str, Any]] = {
    "top_k": {"kind": "top_k", "k": 5},
    "small": {"kind": "top_k", "k": 5, "is_small": True},
    "top_p": {"kind": "top_p", "k": 40, "p": 0.9},
    "small top_p": {"kind": "top_p", "k": 40, "p": 0.9, "is_small": True},
}


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def make_targets(kind: str) -> Targets:
    logits = 2 * draw(POSITIONS, 12, seed=0) @ draw(12, CLASSES, seed=1)
    logits[0, 7] = 300.0  # of a tail nothing is left
    spec = TargetSpec(class_count=CLASSES, rank=8, **KINDS[kind])
    basis = fit_basis(lambda: iter([logits]), spec.rank, 0)
    return decode(spec, encode(spec, logits, basis), basis)


def plain(targets: Targets, temperature: float, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Give the divergences and their derivatives, all classes being rebuilt."""
    rule = compare_all(
        lambda places: Probs(*low_rank_probs(targets[places], temperature)), forward_kl, temperature
    )
    answer = rule(Block(logits, slice(0, POSITIONS)))
    return answer.value, answer.derivative()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.5])
@pytest.mark.parametrize("offset", [0.0, 400.0])
def test_it_is_the_comparison_of_all_classes(kind: str, temperature: float, offset: float) -> None:
    targets = make_targets(kind)
    logits = 3 * draw(POSITIONS, CLASSES, seed=2) + offset
    expected, derivative = plain(targets, temperature, logits.clone())
    for wide in (True, False):
        own = logits.clone() if wide else logits.float()
        term = soft_targets_term(targets, temperature=temperature)
        answer = term.compare(own.clone(), slice(0, POSITIONS), spare=True)
        # The teacher's side is in float32 in both.
        torch.testing.assert_close(answer.value.double(), expected, rtol=3e-5, atol=3e-5)
        found = answer.derivative().double()
        assert (found - derivative).norm() < (1e-5 if wide else 1e-4) * derivative.norm()


def test_blocks_and_indices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, logits = make_targets("small"), draw(POSITIONS, CLASSES, seed=3).float()
    term = soft_targets_term(targets, temperature=2.0, weigh_by="entropy")
    whole = term.compare(logits.clone(), slice(0, POSITIONS), spare=True)
    kept = whole.value.clone(), whole.derivative().clone()
    monkeypatch.setattr(
        sys.modules["pipeline.targets.soften"], "BLOCK_ELEMENTS", {"cpu": 7 * CLASSES}
    )
    cut = term.compare(logits.clone(), slice(0, POSITIONS), spare=True)
    torch.testing.assert_close(cut.value, kept[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(cut.derivative(), kept[1], rtol=1e-5, atol=1e-8)
    order = torch.randperm(POSITIONS, generator=torch.Generator().manual_seed(0))
    picked = term.at(order, POSITIONS).compare(logits[order], slice(0, POSITIONS), spare=True)
    torch.testing.assert_close(picked.value, kept[0][order], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(picked.derivative(), kept[1][order], rtol=1e-5, atol=1e-8)


def test_a_known_largest_is_used_and_spared_logits_are_left_alone() -> None:
    targets, logits = make_targets("top_k"), draw(POSITIONS, CLASSES, seed=4)
    before = logits.clone()
    rule = soft_targets_term(targets, temperature=2.0)
    plainly = rule.compare(logits, slice(0, POSITIONS))
    largest = logits.amax(1, keepdim=True)
    told = rule.compare(logits, slice(0, POSITIONS), largest=largest)
    assert torch.equal(logits, before)
    assert torch.equal(told.value, plainly.value)
    assert torch.equal(told.derivative(), plainly.derivative())


def test_its_gradient_is_the_derivative() -> None:
    targets = make_targets("small")
    logits = draw(POSITIONS, CLASSES, seed=5)[:3]
    logits.requires_grad_()
    term = soft_targets_term(targets[slice(0, 3)], temperature=2.0)
    at = torch.tensor([[0, 3], [1, 400], [2, 699], [2, 5]])

    def some(values: Tensor) -> Tensor:
        return apply(term, logits.detach().index_put((at[:, 0], at[:, 1]), values))

    values = logits.detach()[at[:, 0], at[:, 1]].clone().requires_grad_()
    assert torch.autograd.gradcheck(some, (values,), atol=1e-6)
