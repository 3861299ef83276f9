"""What the softened teacher gives to some classes, against distributions written out in full."""

import pytest
import torch

from pipeline.report.shares import class_shares
from pipeline.targets import (
    Targets,
    TargetSpec,
    decode,
    encode,
    fit_basis,
    low_rank_logits,
    uniforms,
)

CLASSES, POSITIONS = 12, 40
SHOWN = torch.tensor([7, 0, 3, 11])


def draw_logits() -> torch.Tensor:
    return 3 * torch.randn(POSITIONS, CLASSES, generator=torch.Generator().manual_seed(0))


def keep(spec: TargetSpec, logits: torch.Tensor) -> Targets:
    return decode(spec, encode(spec, logits))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_of_all_classes_it_is_the_softmax(temperature: float) -> None:
    logits = draw_logits()
    found = class_shares(keep(TargetSpec("all", CLASSES, CLASSES), logits), SHOWN, temperature)
    torch.testing.assert_close(
        found, (logits / temperature).softmax(1)[:, SHOWN], atol=2e-3, rtol=0
    )


@pytest.mark.parametrize(
    "spec",
    [TargetSpec("top_k", CLASSES, 5), TargetSpec("top_p", CLASSES, 8, p=0.8)],
    ids=["top_k", "top_p"],
)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_what_was_left_out_has_an_even_share_of_the_tail(
    spec: TargetSpec, temperature: float
) -> None:
    logits = draw_logits()
    targets = keep(spec, logits)
    found = class_shares(targets, torch.arange(CLASSES), temperature)
    for position, dense in enumerate((logits / temperature).softmax(1)):
        count = spec.k if targets.count is None else int(targets.count[position])
        kept = logits[position].topk(count).indices
        left_out = [each for each in range(CLASSES) if each not in kept.tolist()]
        torch.testing.assert_close(found[position, kept], dense[kept], atol=6e-3, rtol=0)
        share = float(dense[left_out].sum()) / len(left_out)
        assert found[position, left_out].tolist() == pytest.approx(
            [share] * len(left_out), abs=6e-3
        )


def test_the_shape_of_the_tail_is_used_where_it_was_kept() -> None:
    logits = draw_logits()
    basis = fit_basis(lambda: iter([logits]), rank=4, seed=0)
    spec = TargetSpec("top_k", CLASSES, 3, rank=4)
    targets = decode(spec, encode(spec, logits, basis), basis)
    found = class_shares(targets, SHOWN, 2.0)
    torch.testing.assert_close(found, low_rank_logits(targets, 2.0).softmax(1)[:, SHOWN])


@pytest.mark.parametrize("kind", ["sampled", "hybrid"])
def test_draws_are_right_on_average(kind: str) -> None:
    one = draw_logits()[:1].expand(20_000, CLASSES)
    k = 0 if kind == "sampled" else 3
    spec = TargetSpec(kind, CLASSES, k, draws=8)  # type: ignore[arg-type]
    numbers = uniforms(0, [("a", 0)], [len(one)], spec.draws)
    targets = decode(spec, encode(spec, one, numbers=numbers))
    found = class_shares(targets, SHOWN, 1.0).mean(0)
    torch.testing.assert_close(found, one[0].softmax(0)[SHOWN], atol=3e-3, rtol=0)
