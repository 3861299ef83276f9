"""Losses from states and output layer are the losses of logits, in value and in every gradient."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.errors import TargetError
from pipeline.losses import (
    LOSSES,
    Term,
    fused_losses,
    hard_labels,
    joined_losses,
    soft_targets,
)
from pipeline.losses.hard_labels import hard_labels_term
from pipeline.losses.soft_targets import soft_targets_term
from pipeline.targets import MixedLabels, Targets, TargetSpec, decode, encode, fit_basis, uniforms

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
            monkeypatch.setattr(sys.modules[f"pipeline.{module}"], "FEW_CLASSES", 0)
    monkeypatch.setattr("pipeline.losses.fused.CHUNK_ELEMENTS", {"cpu": 8 * CLASSES})
    # Named by its file, for the room has a function of this name.
    monkeypatch.setattr(
        sys.modules["pipeline.targets.soften"], "BLOCK_ELEMENTS", {"cpu": 3 * CLASSES}
    )


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


def told(sums: Sequence[Tensor | float], terms: list[tuple[float, Term]]) -> Tensor:
    """Give each loss as people are told of it. Shapes: returns (terms,)."""
    factors = [float(term.factor) for _, term in terms]
    return torch.stack(
        [torch.as_tensor(each * factor) for each, factor in zip(sums, factors, strict=True)]
    )


def fused(
    states: Tensor, layer: nn.Linear, terms: list[tuple[float, Term]]
) -> tuple[Tensor, list[Tensor]]:
    """Give losses, and their derivatives by all that there is."""
    sums, derivatives = fused_losses(states, layer, terms)
    asked = [states, *layer.parameters()]
    assert all(found[0] is each for found, each in zip(derivatives, asked, strict=True))
    return told(sums, terms), [found for _, found in derivatives]


def by_autograd(total: Any, states: Tensor, layer: nn.Linear) -> list[Tensor]:
    return list(torch.autograd.grad(total, [states, *layer.parameters()]))


def assert_all_close(
    found: list[Tensor], expected: list[Tensor], *, rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("options", KINDS, ids=lambda o: f"{o['kind']}-{o.get('rank', 0)}")
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chosen", [slice(0, 3), slice(0, 1), slice(1, 2)], ids=["3", "1", "hard"])
def test_fused_losses_are_those_of_whole_logits(
    options: dict[str, Any], temperature: float, bias: bool, chosen: slice
) -> None:
    (states, layer), asked = student(bias=bias), both(make_targets(**options), temperature)[chosen]
    terms = [(weight, TERMS[name](what, **how)) for weight, name, what, how in asked]
    values, derivatives = fused(states, layer, terms)
    plain = [LOSSES[name].function(layer(states), what, **how) for _, name, what, how in asked]
    torch.testing.assert_close(values, torch.stack(plain).detach(), rtol=1e-5, atol=1e-6)
    whole = sum(weight * value for (weight, *_), value in zip(asked, plain, strict=True))
    assert_all_close(derivatives, by_autograd(whole, states, layer))


@pytest.mark.parametrize("options", KINDS, ids=lambda o: f"{o['kind']}-{o.get('rank', 0)}")
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_with_more_classes_has_the_losses_of_whole_logits(
    options: dict[str, Any], temperature: float
) -> None:
    states, targets = student(bias=True)[0], make_targets(**options)
    layer = nn.Linear(WIDTH, CLASSES + 4)
    term = soft_targets_term(targets, temperature=temperature)
    values, derivatives = fused(states, layer, [(2.0, term)])
    plain = soft_targets(layer(states), targets, temperature=temperature)
    assert values.tolist() == pytest.approx([plain.item()], rel=1e-5)
    assert_all_close(derivatives, by_autograd(2 * plain, states, layer))


@pytest.mark.parametrize("options", KINDS, ids=lambda o: f"{o['kind']}-{o.get('rank', 0)}")
def test_a_count_may_be_a_tensor(options: dict[str, Any]) -> None:
    (states, layer), targets = student(bias=True), make_targets(**options)
    count = torch.tensor(5.0, dtype=torch.float64)
    values, derivatives = fused(states, layer, [(2.0, soft_targets_term(targets, count))])
    plain = soft_targets(layer(states), targets, count=count)
    assert values.tolist() == pytest.approx([plain.item()], rel=1e-5)
    assert_all_close(derivatives, by_autograd(2 * plain, states, layer))


@pytest.mark.parametrize("first", [5, -1])
def test_mixed_labels_are_those_of_whole_logits(first: int) -> None:
    (states, layer), labels = student(bias=True), make_labels().clamp(min=0)
    mixed = MixedLabels(labels.clone(), labels.flip(0), torch.linspace(0.1, 0.9, POSITIONS))
    mixed.first[0] = first
    values, derivatives = fused(states, layer, [(1.0, hard_labels_term(mixed))])
    plain = hard_labels(layer(states), mixed)
    assert values.tolist() == pytest.approx([plain.item()], rel=1e-5)
    assert_all_close(derivatives, by_autograd(plain, states, layer))


@pytest.mark.parametrize("weigh_by", ["confidence", "entropy"])
def test_a_position_that_weighs_nothing_teaches_nothing(weigh_by: str) -> None:
    (states, layer), targets = student(bias=True), make_targets(kind="top_k", k=5)
    targets.statistics[weigh_by][::2] = 0.0
    terms = [(0.5, soft_targets_term(targets, temperature=2.0, weigh_by=weigh_by))]
    values, derivatives = fused(states, layer, terms)
    plain = soft_targets(layer(states), targets, temperature=2.0, weigh_by=weigh_by)
    assert values.tolist() == pytest.approx([plain.item()], rel=1e-5)
    assert_all_close(derivatives, by_autograd(0.5 * plain, states, layer))
    assert not derivatives[0][::2].any()


def test_a_student_that_knows_the_tail_still_learns_what_was_kept() -> None:
    """The derivative by the tail is 0 or all but, and those by kept classes are divided by it."""
    states, layer = student(bias=True, dtype=torch.float64)
    layer(states)
    targets = make_targets(kind="top_k", k=5)
    assert targets.classes is not None
    assert targets.tail is not None
    with torch.no_grad():  # its tails are the student's
        logits = layer(states)
        kept = logits.gather(1, targets.classes)
        rest = logits.scatter(1, targets.classes, -torch.inf).logsumexp(1)
        teacher = torch.log_softmax(torch.cat([kept.roll(1, 1), rest[:, None]], 1), 1)
    known = Targets(CLASSES, teacher[:, :-1], targets.classes, teacher[:, -1:], nodes=(1.0,))
    for narrow in (known, single(known)):
        own = [each.to(narrow.logits.dtype) for each in (states, *layer.parameters())]
        at, head = own[0].detach().requires_grad_(), nn.Linear(WIDTH, CLASSES).to(own[0].dtype)
        with torch.no_grad():
            head.weight.copy_(own[1])
            head.bias.copy_(own[2])
        _, derivatives = fused(at, head, [(1.0, soft_targets_term(narrow))])
        plain = soft_targets(layer(states), known)
        expected = [each.to(at.dtype) for each in by_autograd(plain, states, layer)]
        assert all(each.abs().max() > 1e-3 for each in expected)
        assert_all_close(derivatives, expected)


def single(targets: Targets) -> Targets:
    assert targets.tail is not None
    return replace(targets, logits=targets.logits.float(), tail=targets.tail.float())


@pytest.mark.parametrize("options", KINDS, ids=lambda o: f"{o['kind']}-{o.get('rank', 0)}")
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_joined_losses_have_the_gradient_of_their_weighted_sum(
    options: dict[str, Any], temperature: float
) -> None:
    logits = draw(POSITIONS, CLASSES, seed=3).requires_grad_()
    asked = both(make_targets(**options), temperature)
    terms = [(weight, TERMS[name](what, **how)) for weight, name, what, how in asked]
    sums, [(by, gradient)] = joined_losses(logits, terms)
    plain = [LOSSES[name].function(logits, what, **how) for _, name, what, how in asked]
    torch.testing.assert_close(told(sums, terms), torch.stack(plain).detach(), rtol=1e-5, atol=1e-6)
    assert by is logits
    assert not any(torch.as_tensor(each).requires_grad for each in (*sums, gradient))
    whole = sum(weight * value for (weight, *_), value in zip(asked, plain, strict=True))
    assert isinstance(whole, Tensor)
    assert_all_close([gradient], list(torch.autograd.grad(whole, logits)))


@pytest.mark.parametrize("counted", [5.0, torch.tensor(5.0)], ids=["number", "tensor"])
def test_a_term_at_some_positions_is_the_loss_of_those(counted: Any) -> None:
    logits, targets = draw(4, CLASSES, seed=4), make_targets(kind="top_k", k=5)
    at, weighed = torch.tensor([7, 2, 20, 7]), {"weigh_by": "confidence", "temperature": 2.0}
    term = soft_targets_term(targets, 1.0, **weighed).at(at, counted)
    terms = [(1.0, term), (0.5, hard_labels_term(at, counted))]
    sums, [(_, gradient)] = joined_losses(logits, terms)
    expected = soft_targets(logits, targets[at], count=counted, **weighed)  # type: ignore[arg-type]
    assert float(sums[0] * term.factor) == pytest.approx(expected.item(), rel=1e-5)
    assert torch.as_tensor(sums[0]).dtype == torch.float32
    assert gradient.dtype == torch.float32


@pytest.mark.parametrize("options", KINDS, ids=lambda o: f"{o['kind']}-{o.get('rank', 0)}")
@pytest.mark.parametrize("count", [1, 2])
def test_fused_gradients_are_the_derivatives(options: dict[str, Any], count: int) -> None:
    states, layer = student(bias=True, dtype=torch.float64)
    states = states.detach()[:4].requires_grad_()
    terms = [
        (0.7, soft_targets_term(make_targets(**options)[:4], temperature=2.5)),
        (0.3, hard_labels_term(make_labels()[:4])),
    ][:count]
    _, derivatives = fused(states, layer, terms)
    for number, each in enumerate([states, *layer.parameters()]):
        direction = draw(*each.shape, seed=7).double()
        differences = []
        for step in (1e-4, -1e-4):
            with torch.no_grad():
                each.add_(direction, alpha=step)
            sums, _ = fused_losses(states, layer, terms)
            weights = torch.tensor([weight for weight, _ in terms], dtype=torch.float64)
            differences.append(told(sums, terms).dot(weights) / 2e-4)
            with torch.no_grad():
                each.sub_(direction, alpha=step)
        slope = (derivatives[number] * direction).sum()
        expected = (differences[0] - differences[1]).item()
        assert slope.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_share_of_a_batch_counts_as_what_it_is() -> None:
    states, layer = student(bias=False)
    targets, make_term = make_targets(kind="top_k", k=5), soft_targets_term
    whole, _ = fused(states, layer, [(1.0, soft_targets_term(targets))])
    halves = [
        fused(states[cut], layer, [(1.0, make_term(targets[cut], POSITIONS))])[0]
        for cut in (slice(0, 5), slice(5, POSITIONS))
    ]
    assert (halves[0] + halves[1]).item() == pytest.approx(whole.item(), rel=1e-6)


def test_no_positions_cost_nothing() -> None:
    states, layer = student(bias=True)
    values, derivatives = fused(states[:0], layer, [(1.0, hard_labels_term(make_labels()[:0]))])
    assert values.tolist() == [0.0]
    assert [each.shape for each in derivatives] == [(0, WIDTH), (CLASSES, WIDTH), (CLASSES,)]
    assert not any(each.any() for each in derivatives)


def test_of_what_is_not_learned_no_derivative_is_made() -> None:
    states, layer = student(bias=True)
    terms = [(1.0, soft_targets_term(make_targets(kind="top_k", k=5)))]
    layer.weight.requires_grad = False
    found = [each for each, _ in fused_losses(states, layer, terms)[1]]
    assert len(found) == 2
    assert found[0] is states
    assert found[1] is layer.bias
    with torch.no_grad():
        sums, found_without = fused_losses(states, layer, terms)
    assert not found_without
    assert sums[0] > 0


def test_a_label_of_any_chunk_that_is_no_class_is_refused_by_its_position() -> None:
    (states, layer), labels = student(bias=False), make_labels()
    labels[-1] = CLASSES
    with pytest.raises(TargetError, match=f"{CLASSES} at position {POSITIONS - 1};"):
        fused_losses(states, layer, [(1.0, hard_labels_term(labels))])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("others", [0, 1])
def test_autocast_computes_logits_in_half_precision_and_losses_in_full(
    dtype: torch.dtype, others: int
) -> None:
    (states, layer), targets = student(bias=True), make_targets(kind="top_k", k=5)
    terms = [(1.0, soft_targets_term(targets)), (0.0, hard_labels_term(make_labels()))]
    with torch.autocast("cpu", dtype):
        values, derivatives = fused(states, layer, terms[: 1 + others])
        plain = soft_targets(layer(states), targets)
    assert values.dtype == torch.float32
    assert values[0].item() == pytest.approx(plain.item(), rel=1e-3)
    expected = by_autograd(plain, states, layer)
    assert_all_close(derivatives, expected, rtol=0.05, atol=0.01)


def largest_made(act: Callable[[], object]) -> int:
    """Count the elements of the largest tensor that is made meanwhile."""
    seen = Largest()  # type: ignore[no-untyped-call]  # torch's own
    with seen:
        act()
    return int(seen.elements)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor) and each.is_floating_point():
                whole = each.untyped_storage().nbytes() // each.itemsize
                self.elements = max(self.elements, whole)
        return found


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("options", KINDS, ids=lambda o: f"{o['kind']}-{o.get('rank', 0)}")
def test_logits_are_never_whole(options: dict[str, Any], temperature: float) -> None:
    states, layer = student(bias=False)
    targets = make_targets(**options)
    terms = [(1.0, soft_targets_term(targets, temperature=temperature))]
    widest = max(each.numel() for each in (targets.logits, layer.weight, states))
    limit = max(widest + POSITIONS, 8 * CLASSES)
    if options["kind"] != "all":
        assert largest_made(lambda: fused_losses(states, layer, terms)) <= limit
    assert largest_made(lambda: soft_targets(layer(states), targets)) >= POSITIONS * CLASSES


def test_what_was_learned_outlives_the_memory_of_the_logits() -> None:
    states, layer = student(bias=True)
    labels = make_labels()
    values, derivatives = fused(states, layer, [(1.0, hard_labels_term(labels))])
    before = values.clone()
    with torch.inference_mode():  # as an evaluation in between; of more positions
        fused_losses(states.repeat(3, 1), layer, [(1.0, hard_labels_term(labels.repeat(3)))])
    fused_losses(states[:5] * 2, layer, [(1.0, hard_labels_term(labels[:5]))])
    plain = LOSSES["hard_labels"].function(layer(states), labels)
    assert torch.equal(values, before)
    assert_all_close(derivatives, by_autograd(plain, states, layer))


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
    _, [(_, gradient)] = joined_losses(logits, terms)
    expected = torch.autograd.grad(whole, plain)[0].float()
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
