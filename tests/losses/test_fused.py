"""Losses from states and output layer are the losses of logits, in value and in every gradient."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import TargetError
from pipeline.losses import (
    LOSSES,
    Term,
    fused_losses,
    hard_labels,
    joined_losses,
    soft_targets,
)
from pipeline.losses.fused import _Fused
from pipeline.losses.hard_labels import hard_labels_term
from pipeline.losses.soft_targets import soft_targets_term
from pipeline.targets import Targets, TargetSpec, decode, encode, fit_basis, uniforms

POSITIONS, WIDTH, CLASSES = 23, 6, 30
TERMS: dict[str, Callable[..., Term]] = {
    "soft_targets": soft_targets_term,
    "hard_labels": hard_labels_term,
}
KINDS: list[dict[str, Any]] = [
    {"kind": "all", "k": CLASSES},
    {"kind": "top_k", "k": 5},
    {"kind": "top_k", "k": 5, "rank": 4},
    {"kind": "top_p", "k": 9, "p": 0.6},
    {"kind": "sampled", "k": 0, "draws": 7},
    {"kind": "hybrid", "k": 3, "draws": 7},
]


@pytest.fixture(autouse=True, params=["few", "many"])
def _small_chunks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Chunks of 8 positions, of 3 blocks each, of classes that are few or called many."""
    if request.param == "many":
        for module in ("losses.fused", "losses.hard_labels", "losses.tails", "targets.soften"):
            # Named by its file, for the room has a function of this name.
            monkeypatch.setattr(sys.modules[f"pipeline.{module}"], "FEW_CLASSES", 0)
    monkeypatch.setattr("pipeline.losses.fused.CHUNK_ELEMENTS", {"cpu": 8 * CLASSES})
    monkeypatch.setattr("pipeline.losses.fused.BLOCK_ELEMENTS", {"cpu": 3 * CLASSES})


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_targets(**options: Any) -> Targets:
    spec, logits = TargetSpec(class_count=CLASSES, **options), 2 * draw(POSITIONS, CLASSES, seed=0)
    numbers = uniforms(0, [("a", 0)], [POSITIONS], spec.draws) if spec.draws else None
    basis = (
        fit_basis(lambda: iter([draw(90, CLASSES, seed=5)]), spec.rank, 0) if spec.rank else None
    )
    return decode(spec, encode(spec, logits, basis, numbers), basis)


def make_labels() -> Tensor:
    labels = torch.arange(POSITIONS) % CLASSES
    labels[::4] = -1
    return labels


def student(*, bias: bool, dtype: torch.dtype = torch.float32) -> tuple[Tensor, nn.Linear]:
    layer = nn.Linear(WIDTH, CLASSES, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(draw(CLASSES, WIDTH, seed=1))
    return draw(POSITIONS, WIDTH, seed=2).to(dtype).requires_grad_(), layer


def both(targets: Targets, temperature: float) -> list[tuple[float, str, Any, dict[str, Any]]]:
    return [
        (0.5, "soft_targets", targets, {"temperature": temperature}),
        (0.3, "hard_labels", make_labels(), {}),
        (0.2, "soft_targets", targets, {}),
    ]


def grads(total: Tensor, states: Tensor, layer: nn.Linear) -> list[Tensor]:
    return list(torch.autograd.grad(total * 1.7, [states, *layer.parameters()]))


@pytest.mark.parametrize("options", KINDS, ids=lambda o: f"{o['kind']}-{o.get('rank', 0)}")
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("bias", [True, False])
def test_fused_losses_are_those_of_whole_logits(
    options: dict[str, Any], temperature: float, bias: bool
) -> None:
    (states, layer), asked = student(bias=bias), both(make_targets(**options), temperature)
    terms = [(weight, TERMS[name](what, **how)) for weight, name, what, how in asked]
    total, values = fused_losses(states, layer, terms)
    plain = [LOSSES[name].function(layer(states), what, **how) for _, name, what, how in asked]
    torch.testing.assert_close(values, torch.stack(plain).detach(), rtol=1e-5, atol=1e-6)
    whole = sum(weight * value for (weight, *_), value in zip(asked, plain, strict=True))
    assert isinstance(whole, Tensor)
    for one, other in zip(grads(total, states, layer), grads(whole, states, layer), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", KINDS, ids=lambda o: f"{o['kind']}-{o.get('rank', 0)}")
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_joined_losses_have_the_gradient_of_their_weighted_sum(
    options: dict[str, Any], temperature: float
) -> None:
    logits = draw(POSITIONS, CLASSES, seed=3).requires_grad_()
    asked = both(make_targets(**options), temperature)
    terms = [(weight, TERMS[name](what, **how)) for weight, name, what, how in asked]
    sums, gradient = joined_losses(logits, terms)
    values = [float(each * term.factor) for each, (_, term) in zip(sums, terms, strict=True)]
    plain = [LOSSES[name].function(logits, what, **how) for _, name, what, how in asked]
    assert values == pytest.approx([each.item() for each in plain], rel=1e-5, abs=1e-6)
    assert not any(each.requires_grad for each in (*sums, gradient))
    whole = sum(weight * value for (weight, *_), value in zip(asked, plain, strict=True))
    assert isinstance(whole, Tensor)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(whole, logits)[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("counted", [5.0, torch.tensor(5.0)], ids=["number", "tensor"])
def test_a_term_at_some_positions_is_the_loss_of_those(counted: Any) -> None:
    logits, targets = draw(4, CLASSES, seed=4), make_targets(kind="top_k", k=5)
    at, weighed = torch.tensor([7, 2, 20, 7]), {"weigh_by": "confidence", "temperature": 2.0}
    term = soft_targets_term(targets, 1.0, **weighed).at(at, counted)
    sums, gradient = joined_losses(logits, [(1.0, term), (0.5, hard_labels_term(at, counted))])
    expected = soft_targets(logits, targets[at], count=counted, **weighed)  # type: ignore[arg-type]
    assert float(sums[0] * term.factor) == pytest.approx(expected.item(), rel=1e-5)
    assert sums[0].dtype == torch.float32
    assert gradient.dtype == torch.float32


@pytest.mark.parametrize("options", KINDS, ids=lambda o: f"{o['kind']}-{o.get('rank', 0)}")
def test_fused_gradients_are_the_derivatives(options: dict[str, Any]) -> None:
    states, layer = student(bias=True, dtype=torch.float64)
    states = states.detach()[:4].requires_grad_()
    asked = [
        (0.7, soft_targets_term(make_targets(**options)[:4], temperature=2.5)),
        (0.3, hard_labels_term(make_labels()[:4])),
    ]
    assert torch.autograd.gradcheck(
        lambda s, w: _with_weight(layer, s, w, asked),
        (states, layer.weight.detach().clone().requires_grad_()),
    )


def _with_weight(
    layer: nn.Linear, states: Tensor, weight: Tensor, terms: list[tuple[float, Term]]
) -> Tensor:
    total: Tensor = _Fused.apply(  # type: ignore[no-untyped-call]  # torch's own
        states, weight, layer.bias.detach(), tuple(terms)
    )[0]
    return total


def test_a_share_of_a_batch_counts_as_what_it_is() -> None:
    states, layer = student(bias=False)
    targets, make_term = make_targets(kind="top_k", k=5), soft_targets_term
    whole = fused_losses(states, layer, [(1.0, soft_targets_term(targets))])[0]
    halves = [
        fused_losses(states[cut], layer, [(1.0, make_term(targets[cut], POSITIONS))])[0]
        for cut in (slice(0, 5), slice(5, POSITIONS))
    ]
    assert (halves[0] + halves[1]).item() == pytest.approx(whole.item(), rel=1e-6)


def test_no_positions_cost_nothing() -> None:
    states, layer = student(bias=True)
    term = hard_labels_term(make_labels()[:0])
    total, values = fused_losses(states[:0], layer, [(1.0, term)])
    assert total.item() == 0
    assert values.tolist() == [0.0]
    assert not any(grad.any() for grad in grads(total, states, layer))


def test_a_label_of_any_chunk_that_is_no_class_is_refused_by_its_position() -> None:
    (states, layer), labels = student(bias=False), make_labels()
    labels[-1] = CLASSES
    with pytest.raises(TargetError, match=f"{CLASSES} at position {POSITIONS - 1};"):
        fused_losses(states, layer, [(1.0, hard_labels_term(labels))])


def test_autocast_computes_logits_in_half_precision_and_losses_in_full() -> None:
    (states, layer), targets = student(bias=True), make_targets(kind="top_k", k=5)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = fused_losses(states, layer, [(1.0, soft_targets_term(targets))])
        plain = soft_targets(layer(states), targets)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(plain.item(), rel=1e-3)
    for one, other in zip(grads(total, states, layer), grads(plain, states, layer), strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.01)


def largest_gradient(make: Callable[[], Tensor]) -> int:
    """Count the elements of the largest tensor that autograd keeps for the way back."""
    largest = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        make()
    return largest


def test_no_logits_are_kept_for_the_way_back() -> None:
    states, layer = student(bias=False)
    targets = make_targets(kind="top_k", k=5)
    term = soft_targets_term(targets)
    assert (
        largest_gradient(lambda: fused_losses(states, layer, [(1.0, term)])[0]) == WIDTH * CLASSES
    )
    whole = largest_gradient(lambda: soft_targets(layer(states), targets))
    assert whole == POSITIONS * CLASSES


def test_going_back_twice_gives_the_same_gradient_twice() -> None:
    states, layer = student(bias=False)
    term = soft_targets_term(make_targets(kind="top_k", k=5))
    total = 3.0 * fused_losses(states, layer, [(1.0, term)])[0]
    once, twice = (torch.autograd.grad(total, layer.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, twice)


def test_what_was_learned_outlives_the_memory_of_the_logits() -> None:
    states, layer = student(bias=True)
    labels = make_labels()
    total, values = fused_losses(states, layer, [(1.0, hard_labels_term(labels))])
    before = values.clone()
    with torch.inference_mode():  # as an evaluation in between; of more positions
        fused_losses(states.repeat(3, 1), layer, [(1.0, hard_labels_term(labels.repeat(3)))])
    fused_losses(states[:5] * 2, layer, [(1.0, hard_labels_term(labels[:5]))])
    plain = LOSSES["hard_labels"].function(layer(states), labels)
    assert torch.equal(values, before)
    for one, other in zip(grads(total, states, layer), grads(plain, states, layer), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gap", [1.0, 100.0, 1e4])
def test_a_tail_far_below_what_was_kept_is_as_exact_as_alone(gap: float) -> None:
    targets = make_targets(kind="top_k", k=5)
    assert targets.classes is not None
    logits = draw(POSITIONS, CLASSES, seed=3).scatter_add_(
        1, targets.classes, torch.full(targets.classes.shape, gap)
    )
    terms = [(1.0, hard_labels_term(make_labels())), (1.0, soft_targets_term(targets))]
    plain = logits.double().requires_grad_()
    whole = hard_labels(plain, make_labels()) + soft_targets(plain, targets)
    _, gradient = joined_losses(logits, terms)
    expected = torch.autograd.grad(whole, plain)[0].float()
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
