"""What a GPU computes is what a CPU does; run with `scripts/test -m gpu` where there is one."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laboratory import Lab, options
from torch import Tensor, nn

from pipeline.losses import Term, fused_losses, joined_losses
from pipeline.losses.hard_labels import hard_labels_term
from pipeline.losses.soft_targets import soft_targets_term
from pipeline.targets import Targets, TargetSpec, decode, encode, fit_basis, uniforms

pytestmark = pytest.mark.gpu

POSITIONS, WIDTH, CLASSES = 300, 32, 3000
KINDS: dict[str, dict[str, Any]] = {
    "all": {"kind": "all", "k": CLASSES},
    "top_k": {"kind": "top_k", "k": 16},
    "low_rank": {"kind": "top_k", "k": 16, "rank": 8},
    "small": {"kind": "top_k", "k": 4, "rank": 8, "is_small": True},
    "top_p": {"kind": "top_p", "k": 64, "p": 0.9},
    "sampled": {"kind": "sampled", "k": 0, "draws": 40},
    "hybrid": {"kind": "hybrid", "k": 8, "draws": 40},
}
SOFT: dict[str, tuple[str, dict[str, Any]]] = {
    "all": ("all", {"temperature": 2.0}),
    "reverse": ("all", {"divergence": "reverse_kl"}),
    "bucket": ("top_k", {"temperature": 2.0}),
    "jensen_shannon": ("top_k", {"divergence": "jensen_shannon"}),
    "uniform": ("top_k", {"tail": "uniform"}),
    "renormalise": ("top_k", {"tail": "renormalise", "temperature": 4.0}),
    "none": ("top_k", {"tail": "none"}),
    "weighed": ("top_k", {"weigh_by": "entropy"}),
    "low_rank": ("low_rank", {"temperature": 2.0}),
    "spare places": ("top_p", {"temperature": 2.0}),
    "sampled": ("sampled", {}),
    "hybrid": ("hybrid", {"temperature": 1.5}),
}
GPU, CPU = torch.device("cuda"), torch.device("cpu")


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache
def logits_of_teacher() -> Tensor:
    return 3 * draw(POSITIONS, 24, seed=0) @ draw(24, CLASSES, seed=1) / 5


def encoded(kind: str, device: torch.device) -> tuple[TargetSpec, dict[str, Any], Any]:
    spec, logits = TargetSpec(class_count=CLASSES, **KINDS[kind]), logits_of_teacher().to(device)
    numbers = uniforms(0, [("a", 0)], [POSITIONS], spec.draws) if spec.draws else None
    basis = fit_basis(lambda: iter([logits_of_teacher()]), spec.rank, 0) if spec.rank else None
    return spec, encode(spec, logits, basis and basis.to(device), numbers), basis


@cache
def targets_of(kind: str) -> Targets:
    return decode(*encoded(kind, CPU))


def hard() -> Tensor:
    labels = torch.arange(POSITIONS) % CLASSES
    labels[::5] = -1
    return labels


def terms_on(device: torch.device, names: Sequence[str]) -> list[tuple[float, Term]]:
    found = [(0.3, hard_labels_term(hard().to(device)))] if "hard" in names else []
    for name in names:
        if name != "hard":
            kind, settings = SOFT[name]
            found.append((0.7, soft_targets_term(targets_of(kind).to(device), **settings)))
    return found


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 2e-4) -> None:
    error = (found.detach().cpu().double() - expected.detach().cpu().double()).norm()
    assert error <= tolerance * expected.double().norm().clamp(min=1e-12)


ASKED = [["hard"], *([name] for name in SOFT), ["bucket", "hard"], ["low_rank", "all", "hard"]]


@pytest.mark.parametrize("names", ASKED, ids="-".join)
@pytest.mark.parametrize("chunk", [2**26, 100 * CLASSES], ids=["whole", "chunks"])
def test_losses_of_a_gpu_are_those_of_a_cpu(
    names: list[str], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.losses.fused.CHUNK_ELEMENTS_ELSEWHERE", chunk)
    layer = nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(draw(CLASSES, WIDTH, seed=3) / 3)
        layer.bias.copy_(draw(CLASSES, seed=4))
    states = draw(POSITIONS, WIDTH, seed=5).requires_grad_()
    expected, derivatives = fused_losses(states, layer, terms_on(CPU, names))
    theirs = [each for _, each in derivatives]
    layer = layer.to(GPU)
    found, derivatives = fused_losses(
        states.detach().to(GPU).requires_grad_(), layer, terms_on(GPU, names)
    )
    ours = [each for _, each in derivatives]
    for one, other in zip([*found, *ours], [*expected, *theirs], strict=True):
        assert one.device.type == "cuda"
        assert_near(one, other)


@pytest.mark.parametrize("names", ASKED, ids="-".join)
def test_losses_of_logits_are_the_same_on_a_gpu(names: list[str]) -> None:
    logits = 2 * draw(POSITIONS, CLASSES, seed=6)
    expected, ((_, derivative),) = joined_losses(logits, terms_on(CPU, names))
    found, ((_, other),) = joined_losses(logits.to(GPU), terms_on(GPU, names))
    for one, two in zip([*found, other], [*expected, derivative], strict=True):
        assert_near(torch.as_tensor(one), torch.as_tensor(two))


def test_half_precision_is_near_the_whole() -> None:
    layer = nn.Linear(WIDTH, CLASSES, bias=False, device=GPU)
    states = draw(POSITIONS, WIDTH, seed=5).to(GPU).requires_grad_()
    terms = terms_on(GPU, ["bucket", "hard"])
    expected, ((_, by_states), (_, by_weight)) = fused_losses(states, layer, terms)
    with torch.autocast("cuda", torch.bfloat16):
        found, ((_, states_too), (_, weight_too)) = fused_losses(states, layer, terms)
    assert weight_too.dtype == torch.float32
    ours, theirs = [*found, states_too, weight_too], [*expected, by_states, by_weight]
    for one, two in zip(ours, theirs, strict=True):
        assert_near(one, two, 2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_encodes_as_a_cpu_does_and_twice_the_same(kind: str) -> None:
    _, expected, _ = encoded(kind, CPU)
    _, found, _ = encoded(kind, GPU)
    _, again, _ = encoded(kind, GPU)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        assert array.tobytes() == again[name].tobytes()
        assert array.flags.writeable
        if name in ("classes", "top", "count"):
            np.testing.assert_array_equal(array, expected[name])
        elif name not in ("drawn", "drawn_logits", "drawn_new", "codes"):  # a draw may be another
            np.testing.assert_allclose(
                array.astype(float), expected[name].astype(float), rtol=2e-3, atol=2e-3
            )


@pytest.mark.parametrize("tail", ["", "targets.tail={kind='low_rank', rank=3}"])
def test_a_cache_and_a_student_are_made_on_a_gpu(lab: Lab, tail: str) -> None:
    on_gpu = options("teacher.device='cuda'", "training.device='cuda'", *filter(None, [tail]))
    assert lab.cache_teacher(*on_gpu).status == 0
    again = lab.cache_teacher(*on_gpu, *options("cache.path='again'"))
    assert again.status == 0
    assert chunks_of(lab.cache) == chunks_of(lab.folder / "again")
    trained = lab.train_student(*on_gpu)
    assert trained.status == 0, trained.stderr
    assert (lab.run / "metrics.jsonl").exists()


def chunks_of(cache: Path) -> dict[str, bytes]:
    files = [each for each in cache.rglob("c.*") if each.is_file()]
    assert files
    return {str(each.relative_to(cache)): each.read_bytes() for each in files}
