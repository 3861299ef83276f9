"""Several teachers against loops in plain floats, one dict a position, and against theorems."""

import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import TargetError
from pipeline.losses import fused_losses, soft_targets
from pipeline.losses.soft_targets import richest_tail, soft_targets_term
from pipeline.targets import (
    Mixture,
    Targets,
    TargetSpec,
    decode,
    encode,
    fit_basis,
    low_rank_logits,
    mix_targets,
    uniforms,
)
from pipeline.targets.mixtures import merge

CLASSES, POSITIONS = 9, 6
TEMPERATURES = [1.0, 2.0, 4.0]  # nodes of the tail, so nothing here is interpolated
WEIGHTS = (0.5, 0.2, 0.3)
TOP_K: dict[str, Any] = {"kind": "top_k", "k": 3}
TOP_2: dict[str, Any] = {"kind": "top_k", "k": 2}
TOP_P: dict[str, Any] = {"kind": "top_p", "k": 5, "p": 0.7}
SHAPED: dict[str, Any] = {"kind": "top_k", "k": 2, "rank": 3}
DRAWN: dict[str, Any] = {"kind": "sampled", "k": 0, "draws": 5}
HYBRID: dict[str, Any] = {"kind": "hybrid", "k": 2, "draws": 5}
ALL: dict[str, Any] = {"kind": "all", "k": CLASSES}


def draw(seed: int, *, positions: int = POSITIONS, classes: int = CLASSES) -> Tensor:
    """Draw logits; multiples of 1/64 survive float16."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(positions, classes, generator=generator, dtype=torch.float64)
    return (logits * 64).round() / 64


def cut(logits: Tensor, seed: int = 0, **options: Any) -> Targets:
    spec = TargetSpec(class_count=logits.shape[1], **options)
    numbers = uniforms(seed, [("a", 0)], [len(logits)], spec.draws) if spec.draws else None
    basis = fit_basis(lambda: iter([draw(99, positions=60)]), spec.rank, 0) if spec.rank else None
    return decode(spec, encode(spec, logits, basis, numbers), basis)


def mixed(*kinds: dict[str, Any], weights: tuple[float, ...] = ()) -> Mixture:
    """A teacher of its own logits for each kind."""
    return mix_targets([cut(draw(seed), **kind) for seed, kind in enumerate(kinds)], weights)


def slow_softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp((x - max(row)) / temperature) for x in row]
    return [power / sum(powers) for power in powers]


def slow_kept(targets: Targets, position: int) -> set[int]:
    if targets.classes is None:
        return set(range(CLASSES))
    return set(targets.classes[position].tolist())  # spare places repeat the first


def slow_fill(p: list[float], kept: set[int], shape: list[float] | None) -> dict[int, float]:
    """Give every class something: the kept ones their own, the others a share of the tail."""
    rest = [c for c in range(CLASSES) if c not in kept]
    mass = sum(p[c] for c in rest)
    if shape is None:
        return {c: p[c] if c in kept else mass / len(rest) for c in range(CLASSES)}
    of_shape = sum(shape[c] for c in rest)
    return {c: p[c] if c in kept else mass * shape[c] / of_shape for c in range(CLASSES)}


def slow_average(mixture: Mixture, temperature: float) -> list[dict[int, float]]:
    """Average the teachers' distributions over all classes, a dict a position."""
    averages = []
    for position in range(POSITIONS):
        average = dict.fromkeys(range(CLASSES), 0.0)
        for seed, (targets, weight) in enumerate(
            zip(mixture.members, mixture.weights, strict=True)
        ):
            p = slow_softmax(draw(seed)[position].tolist(), temperature)
            shape = None
            if targets.codes is not None:
                rebuilt = low_rank_logits(targets[position : position + 1], temperature)
                shape = rebuilt.double().softmax(1)[0].tolist()
            for c, mass in slow_fill(p, slow_kept(targets, position), shape).items():
                average[c] += weight * mass
        averages.append(average)
    return averages


def slow_bucket(mixture: Mixture, student: Tensor, temperature: float) -> float:
    total = 0.0
    averages = slow_average(mixture, temperature)
    for position, average in enumerate(averages):
        q = slow_softmax(student[position].tolist(), temperature)
        union = set().union(*(slow_kept(each, position) for each in mixture.members))
        rest = [c for c in average if c not in union]
        pairs = [(average[c], q[c]) for c in union]
        if rest:
            pairs.append((sum(average[c] for c in rest), sum(q[c] for c in rest)))
        total += sum(a * math.log(a / b) for a, b in pairs)
    return total / POSITIONS * temperature**2


def slow_dense(mixture: Mixture, student: Tensor, temperature: float) -> float:
    total = 0.0
    for average, row in zip(slow_average(mixture, temperature), student.tolist(), strict=True):
        q = slow_softmax(row, temperature)
        total += sum(average[c] * math.log(average[c] / q[c]) for c in average)
    return total / POSITIONS * temperature**2


def slow_kept_alone(mixture: Mixture, student: Tensor, temperature: float, tail: str) -> float:
    total = 0.0
    for position in range(POSITIONS):
        average: dict[int, float] = {}
        for seed, (targets, weight) in enumerate(
            zip(mixture.members, mixture.weights, strict=True)
        ):
            p = slow_softmax(draw(seed)[position].tolist(), temperature)
            kept = slow_kept(targets, position)
            whole = sum(p[c] for c in kept) if tail == "renormalise" else 1.0
            for c in kept:
                average[c] = average.get(c, 0.0) + weight * p[c] / whole
        q = slow_softmax(student[position].tolist(), temperature)
        total += sum(mass * math.log(mass / q[c]) for c, mass in average.items())
    return total / POSITIONS * temperature**2


def precision(kinds: tuple[dict[str, Any], ...]) -> float:
    """Tails with a shape or draws are kept in 16 bits."""
    return 1e-3 if any("rank" in kind or "draws" in kind for kind in kinds) else 1e-5


def gradient(student: Tensor, targets: Targets | Mixture, **options: Any) -> Tensor:
    student = student.clone().requires_grad_()
    (slope,) = torch.autograd.grad(soft_targets(student, targets, **options), student)
    return slope


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    "kinds",
    [
        *((TOP_K, TOP_2), (TOP_K, TOP_P, TOP_2), (TOP_P, TOP_P, TOP_P), (HYBRID, TOP_K)),
        *((SHAPED, TOP_K, TOP_P), ({"kind": "top_k", "k": 8}, {"kind": "top_k", "k": 7})),
    ],
    ids=["two", "three", "varying", "drawn-and-not", "one-with-a-shape", "nearly-all"],
)
def test_a_bucket_is_the_average_over_the_kept_classes_of_all_and_their_tail(
    kinds: tuple[dict[str, Any], ...], temperature: float
) -> None:
    mixture, student = mixed(*kinds, weights=WEIGHTS[: len(kinds)]), draw(50)
    loss = soft_targets(student, mixture, temperature=temperature, tail="bucket")
    expected = slow_bucket(mixture, student, temperature)
    assert loss.item() == pytest.approx(expected, rel=precision(kinds))
    if len({kind.get("rank") for kind in kinds}) > 1:
        assert richest_tail(mixture) == "bucket"


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("tail", "kinds"),
    [
        *((None, (ALL, ALL)), ("uniform", (TOP_K, TOP_2, TOP_P)), (None, (ALL, TOP_K))),
        *((None, (SHAPED, SHAPED, SHAPED)), (None, (SHAPED, ALL)), ("bucket", (TOP_K, ALL))),
    ],
    ids=["all", "uniform", "all-and-some", "shapes", "shape-and-all", "some-and-all"],
)
def test_all_classes_are_compared_where_they_are_all_known_or_filled_in(
    tail: str | None, kinds: tuple[dict[str, Any], ...], temperature: float
) -> None:
    mixture, student = mixed(*kinds, weights=WEIGHTS[: len(kinds)]), draw(50)
    loss = soft_targets(student, mixture, temperature=temperature, tail=tail)
    expected = slow_dense(mixture, student, temperature)
    assert loss.item() == pytest.approx(expected, rel=precision(kinds))


@pytest.mark.parametrize("tail", ["none", "renormalise"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_without_a_tail_the_kept_masses_are_averaged(tail: str, temperature: float) -> None:
    mixture, student = mixed(TOP_K, TOP_P, ALL, weights=WEIGHTS), draw(50)
    loss = soft_targets(student, mixture, temperature=temperature, tail=tail)
    slow = slow_kept_alone(mixture, student, temperature, tail)
    assert loss.item() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("kinds", [(TOP_K, TOP_2), (TOP_P, TOP_K, SHAPED)], ids=["two", "three"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_what_is_merged_sums_to_1_with_every_class_once(
    kinds: tuple[dict[str, Any], ...], temperature: float
) -> None:
    merged = merge(mixed(*kinds), temperature)
    mass = merged.log_probs.exp().sum(1) + merged.log_tail.exp()
    assert torch.allclose(mass, torch.ones(POSITIONS), atol=1e-6)
    for classes, is_spare in zip(merged.classes, merged.is_spare, strict=True):
        listed = classes[~is_spare].tolist()
        assert len(set(listed)) == len(listed)
        assert set(classes[is_spare].tolist()) <= {listed[0]}


def test_a_union_of_all_classes_leaves_the_last_one_to_the_tail() -> None:
    up, down = torch.arange(6.0)[None], torch.arange(6.0).flip(0)[None]
    merged = merge(mix_targets([cut(up, kind="top_k", k=3), cut(down, kind="top_k", k=3)]), 1.0)
    assert merged.classes.tolist() == [[0, 1, 2, 3, 4]]
    average = torch.stack([up.softmax(1), down.softmax(1)]).mean(0)
    # What one teacher left out is the other's, so only the shares are not exact.
    share = up.softmax(1)[:, :3].mean()
    expected = (down.softmax(1)[:, :3] + share) / 2
    assert torch.allclose(merged.log_probs.exp()[:, :3], expected, atol=1e-6)
    assert merged.log_tail.exp().item() == pytest.approx(
        (average[0, 5] - up.softmax(1)[0, 0] / 2 + share / 2).item(), rel=1e-5
    )


EACH = [
    *((ALL, None), (TOP_K, "bucket"), (TOP_P, "bucket"), (TOP_K, "uniform"), (TOP_P, "none")),
    *((TOP_P, "renormalise"), (SHAPED, "low_rank"), (HYBRID, "sampled"), (DRAWN, "sampled")),
]


@pytest.mark.parametrize(("kind", "tail"), EACH)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("copies", [1, 3])
def test_teachers_who_say_the_same_are_that_teacher(
    kind: dict[str, Any], tail: str | None, temperature: float, copies: int
) -> None:
    targets, student = cut(draw(0), **kind), draw(50).float()
    options: dict[str, Any] = {"temperature": temperature, "tail": tail}
    mixture = mix_targets([targets] * copies)
    loss, alone = (soft_targets(student, each, **options) for each in (mixture, targets))
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5, abs=1e-6)
    slope = gradient(student, mixture, **options)
    assert torch.allclose(slope, gradient(student, targets, **options), atol=1e-6)


@pytest.mark.parametrize("divergence", ["reverse_kl", "jensen_shannon"])
@pytest.mark.parametrize("kinds", [(ALL, ALL), (TOP_K, TOP_2), (SHAPED, SHAPED)])
def test_other_divergences_are_of_the_average(
    divergence: str, kinds: tuple[dict[str, Any], ...]
) -> None:
    mixture, student = mixed(*kinds, weights=(0.75, 0.25)), draw(50)
    slope = gradient(student, mixture, divergence=divergence)
    assert slope.sum(1).abs().max() < 1e-6  # of a function of probabilities
    log_average = torch.tensor([list(each.values()) for each in slow_average(mixture, 1.0)]).log()
    filled = Targets(CLASSES, log_average - log_average.amax(1, keepdim=True))
    loss = soft_targets(student, mixture, divergence=divergence)
    dense = soft_targets(student, filled, divergence=divergence)
    if TOP_K in kinds:  # a bucket says less
        assert loss < dense
    else:
        assert loss.item() == pytest.approx(dense.item(), rel=1e-4)


def test_a_student_that_is_the_average_has_nothing_to_learn() -> None:
    mixture = mixed(ALL, ALL, ALL, weights=WEIGHTS)
    for temperature in TEMPERATURES:
        average = torch.tensor(
            [list(each.values()) for each in slow_average(mixture, temperature)]
        ).log()
        student = average.double() * temperature
        assert gradient(student, mixture, temperature=temperature).abs().max() < 1e-6
        assert abs(soft_targets(student, mixture, temperature=temperature).item()) < 1e-5


GRADED = [
    *((None, (ALL, ALL)), ("bucket", (TOP_K, TOP_P)), ("none", (TOP_K, TOP_P))),
    *(("uniform", (TOP_K, TOP_P)), ("renormalise", (TOP_K, ALL)), (None, (SHAPED, SHAPED))),
    *((None, (SHAPED, TOP_K)), ("sampled", (HYBRID, DRAWN)), ("sampled", (HYBRID, ALL))),
]


@pytest.mark.parametrize(("tail", "kinds"), GRADED)
@pytest.mark.parametrize("width", [CLASSES, CLASSES + 2], ids=["same", "padded"])
def test_gradients_are_the_derivatives(
    tail: str | None, kinds: tuple[dict[str, Any], ...], width: int
) -> None:
    mixture = mixed(*kinds, weights=(0.75, 0.25))[:2]
    student = draw(50, positions=2, classes=width).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: soft_targets(s, mixture, temperature=2.5, tail=tail), (student,)
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_of_several_teachers_push_as_their_average_does_on_average(
    temperature: float,
) -> None:
    rows = [draw(seed, positions=1) for seed in (0, 1)]
    student, weights = draw(50, positions=1), (0.75, 0.25)
    exact = mix_targets([Targets(CLASSES, row - row.amax()) for row in rows], weights)
    expected = gradient(student, exact, temperature=temperature)
    many = 4000
    drawn = [
        cut(row.expand(many, -1), seed, **kind)
        for seed, (row, kind) in enumerate(zip(rows, (HYBRID, DRAWN), strict=True))
    ]
    slopes = gradient(
        student.expand(many, -1), mix_targets(drawn, weights), temperature=temperature
    )
    error = slopes.sum(0) - expected[0]
    assert error.abs().max() < 4 * (slopes * many).std(0).max() / math.sqrt(many)


def test_the_value_of_draws_is_the_average_of_those_of_each_teacher() -> None:
    mixture, student = mixed(HYBRID, DRAWN, ALL, weights=WEIGHTS), draw(50)
    each = [soft_targets(student, targets).item() for targets in mixture.members]
    expected = sum(w * value for w, value in zip(WEIGHTS, each, strict=True))
    assert soft_targets(student, mixture).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kinds", [(ALL, TOP_K), (TOP_K, TOP_P), (SHAPED, SHAPED), (HYBRID, DRAWN)])
def test_fused_losses_are_those_of_whole_logits(
    kinds: tuple[dict[str, Any], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.losses.fused.CHUNK_ELEMENTS", {"cpu": 4 * CLASSES})
    soften = sys.modules["pipeline.targets.soften"]  # the room has a function of this name
    monkeypatch.setattr(soften, "BLOCK_ELEMENTS", {"cpu": 3 * CLASSES})
    layer, mixture = nn.Linear(4, CLASSES), mixed(*kinds, weights=(0.75, 0.25))
    states = draw(51, classes=4).float().requires_grad_()
    term = soft_targets_term(mixture)
    (total,), derivatives = fused_losses(states, layer, [(2.0, term)])
    plain = soft_targets(layer(states), mixture)
    assert float(total * term.factor) == pytest.approx(plain.item(), rel=1e-5)
    expected = torch.autograd.grad(2 * plain, [states, *layer.parameters()])
    for (_, found), other in zip(derivatives, expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-6)


def test_positions_are_selected_of_every_teacher() -> None:
    mixture, student = mixed(TOP_P, SHAPED, weights=(0.75, 0.25)), draw(50)
    shares = [
        soft_targets(student[places], mixture[places], count=POSITIONS)
        for places in (slice(0, 2), slice(2, 2), slice(2, POSITIONS))
    ]
    whole = soft_targets(student, mixture)
    assert torch.stack(shares).sum().item() == pytest.approx(whole.item(), rel=1e-6)
    assert len(mixture[1:4]) == 3
    assert mixture[1:4].weights == (0.75, 0.25)
    assert mixture.to("cpu").members[0] is mixture.members[0]
    assert mixture.to("meta").members[1].logits.device.type == "meta"


def test_positions_weigh_as_much_as_the_teachers_say_on_average() -> None:
    confidences = [torch.tensor([0.5, 0.9]), torch.tensor([0.7, 0.1])]
    members = [
        replace(cut(draw(seed)[:2], **ALL), statistics={"confidence": each, "margin": each})
        for seed, each in enumerate(confidences)
    ]
    members[1] = replace(members[1], statistics={"confidence": confidences[1]})
    mixture, student = mix_targets(members, (0.75, 0.25)), draw(50)[:2]
    assert list(mixture.statistics) == ["confidence"]
    weights = torch.tensor([0.55, 0.7])
    assert torch.allclose(mixture.statistics["confidence"], weights)
    each = torch.stack([soft_targets(student[p : p + 1], mixture[p : p + 1]) for p in (0, 1)])
    loss = soft_targets(student, mixture, weigh_by="confidence")
    assert loss.item() == pytest.approx(((each * weights).sum() / weights.sum()).item(), rel=1e-6)


@pytest.mark.parametrize(
    "kind", [ALL, TOP_K, TOP_P, HYBRID, DRAWN], ids=lambda kind: str(kind["kind"])
)
def test_the_first_choice_of_one_teacher_is_its_own(kind: dict[str, Any]) -> None:
    targets = cut(4 * draw(0), **(kind | {"draws": 4000} if kind == DRAWN else kind))
    assert torch.equal(mix_targets([targets] * 2).top_classes(), draw(0).argmax(1))


def test_the_first_choice_of_several_is_that_of_their_average() -> None:
    mixture = mixed(ALL, ALL, weights=(0.6, 0.4))
    average = [max(each, key=each.__getitem__) for each in slow_average(mixture, 1.0)]
    assert mixture.top_classes().tolist() == average
    assert average != mixture.members[0].top_classes().tolist()


REFUSED = [
    (
        {"tail": "low_rank"},
        (SHAPED, TOP_K),
        "soft_targets: tail 'low_rank' cannot be had of teacher 2 of 2: it needs a cache that kept "
        "the tail's shape; this one kept its mass. Use tail = 'bucket', or cache with "
        "targets.tail = { kind = 'low_rank' }.",
    ),
    (
        {},
        (TOP_K, DRAWN),
        "soft_targets: tail 'bucket' cannot be had of teacher 2 of 2: it needs classes that were "
        "kept; this cache holds draws alone. Use tail = 'sampled'.",
    ),
    (
        {"divergence": "reverse_kl"},
        (HYBRID, DRAWN),
        "soft_targets: divergence 'reverse_kl' is not defined with tail 'sampled': the logarithm "
        "of an estimate is biased, and infinite for what was not drawn. Use forward_kl, or a cache "
        "with tail 'bucket' or 'low_rank'.",
    ),
    (
        {"temperature": 0.5},
        (ALL, TOP_K),
        "targets: temperature 0.5 cannot be served; these targets allow 1 or above, as classes "
        "were left out. Choose another temperature, or cache all classes.",
    ),
    (
        {"weigh_by": "entropy"},
        (ALL, ALL),
        "soft_targets: weigh_by 'entropy' needs the teacher's entropy at each position; these "
        "targets came without. Stream them with statistics, or leave weigh_by out.",
    ),
]


@pytest.mark.parametrize(("options", "kinds", "message"), REFUSED)
def test_what_teachers_do_not_have_together_is_refused(
    options: dict[str, Any], kinds: tuple[dict[str, Any], ...], message: str
) -> None:
    mixture = mixed(*kinds)
    mixture = replace(mixture, members=tuple(replace(m, statistics={}) for m in mixture.members))
    with pytest.raises(TargetError) as caught:
        soft_targets(draw(50), mixture, **options)
    assert str(caught.value) == message


def test_teachers_of_other_classes_are_no_mixture() -> None:
    with pytest.raises(TargetError) as caught:
        mix_targets([Targets(4, torch.zeros(2, 4)), Targets(5, torch.zeros(2, 5))])
    assert str(caught.value) == (
        "targets: the teachers of a mixture must have said something of the same positions and "
        "classes; got 2 positions of 4 classes and 2 positions of 5 classes. Give caches of the "
        "same rows, of teachers with the same classes."
    )


@pytest.mark.parametrize(
    ("weights", "shown"), [((1.0,), "1"), ((1.0, 0.0), "1, 0"), ((1.0, math.inf), "1, inf")]
)
def test_every_teacher_counts_for_something(weights: tuple[float, ...], shown: str) -> None:
    message = f"targets: weights must be 2 numbers above 0, one a teacher; got {shown}"
    with pytest.raises(TargetError) as caught:
        mix_targets([Targets(4, torch.zeros(2, 4))] * 2, weights)
    assert str(caught.value) == message


def test_weights_are_shares_of_1() -> None:
    assert mix_targets([Targets(4, torch.zeros(2, 4))] * 2, (3, 1)).weights == (0.75, 0.25)
