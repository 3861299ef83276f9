"""Our losses are those of other tools, where theirs are defined: `pytest -m conformance`.

Needs what the project does not: `pip install trl datasets torchdistill` (seen with trl 1.16.0 and
torchdistill 1.1.5).
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.losses import (
    attention_transfer,
    cosine,
    hard_labels,
    hint,
    relational_angle,
    relational_distance,
    similarity,
    soft_targets,
)
from pipeline.targets import Targets, TargetSpec, decode, encode

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.filterwarnings("ignore"),  # other tools' own
]
POSITIONS, CLASSES, K = 7, 50, 5
BETAS = {"forward_kl": 0.0, "jensen_shannon": 0.3, "reverse_kl": 1.0}


def draw(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def student() -> Tensor:
    return draw(1, POSITIONS, CLASSES)


def teacher() -> Tensor:
    # Multiples of 1/64 survive a cache's float16.
    return (draw(2, POSITIONS, CLASSES) * 64).round() / 64


@pytest.mark.parametrize("divergence", list(BETAS))
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_classes_are_compared_as_by_trl(divergence: str, temperature: float) -> None:
    trl: Any = pytest.importorskip("trl.experimental.gold.gold_trainer")
    theirs = trl.GOLDTrainer.generalized_jsd_loss(
        student()[None],
        teacher()[None],
        labels=torch.zeros(1, POSITIONS, dtype=torch.long),
        beta=BETAS[divergence],
        temperature=temperature,
    )
    ours = soft_targets(
        student(),
        Targets(CLASSES, teacher()),
        temperature=temperature,
        divergence=divergence,
        beta=0.3,
    )
    # They do not scale by temperature squared.
    assert ours.item() / temperature**2 == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("divergence", list(BETAS))
def test_a_bucket_is_compared_as_by_trl(divergence: str) -> None:
    trl: Any = pytest.importorskip(
        "trl.experimental.server_distillation.server_distillation_trainer"
    )
    spec = TargetSpec("top_k", CLASSES, K)
    targets = decode(spec, encode(spec, teacher()))
    assert targets.classes is not None
    lumps = [
        trl._add_tail_bucket(
            logits.log_softmax(1).gather(1, targets.classes), torch.ones(POSITIONS, K).bool()
        )
        for logits in (student(), teacher())
    ]
    (ours_kept, mask), (theirs_kept, _) = lumps
    theirs = trl._jsd_divergence(ours_kept, theirs_kept, BETAS[divergence], support_mask=mask)
    ours = soft_targets(student(), targets, divergence=divergence, beta=0.3)
    assert ours.item() == pytest.approx(theirs.sum().item() / POSITIONS, rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_and_hard_add_up_as_in_torchdistill(temperature: float) -> None:
    torchdistill: Any = pytest.importorskip("torchdistill.losses.mid_level")
    theirs = torchdistill.KDLoss("s", "output", "t", "output", temperature, alpha=0.1)
    labels = torch.arange(POSITIONS)
    expected = theirs({"s": {"output": student()}}, {"t": {"output": teacher()}}, labels)
    soft = soft_targets(student(), Targets(CLASSES, teacher()), temperature=temperature)
    total = 0.9 * soft + 0.1 * hard_labels(student(), labels)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_masked_tokens_are_compared_as_by_transformers() -> None:
    utils: Any = pytest.importorskip("transformers.loss.loss_utils")
    labels = torch.arange(POSITIONS)
    labels[::3] = -100
    theirs = utils.ForMaskedLMLoss(student()[None], labels[None], CLASSES)
    ours = hard_labels(student(), labels.where(labels >= 0, -1))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_the_next_token_is_compared_as_by_transformers() -> None:
    utils: Any = pytest.importorskip("transformers.loss.loss_utils")
    tokens = torch.arange(POSITIONS)
    theirs = utils.ForCausalLMLoss(student()[None], tokens[None], CLASSES)
    ours = hard_labels(student()[:-1], tokens[1:])
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_the_cosine_term_is_distilberts() -> None:
    """CosineEmbeddingLoss with the target 1, averaged, as in its distiller.py."""
    one, other = draw(3, POSITIONS, 16), draw(4, POSITIONS, 16)
    theirs = torch.nn.CosineEmbeddingLoss()(one, other, torch.ones(POSITIONS))
    assert cosine(one, other).item() == pytest.approx(theirs.item(), rel=1e-6)


def read_as_torchdistill(features: Tensor) -> dict[str, dict[str, Tensor]]:
    return {"layer": {"output": features}}


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_attention_transfer_is_torchdistills_in_both_modes(mode: str) -> None:
    torchdistill: Any = pytest.importorskip("torchdistill.losses.mid_level")
    own, theirs = draw(3, 5, 4, 6, 6), draw(4, 5, 9, 6, 6)
    place = {"path": "layer", "io": "output"}
    loss = torchdistill.ATLoss({"pair": {"student": place, "teacher": place}}, mode)
    expected = loss(read_as_torchdistill(own), read_as_torchdistill(theirs))
    torch.testing.assert_close(attention_transfer(own, theirs, convention=mode), expected)


@pytest.mark.parametrize("factors", [(1.0, 0.0), (0.0, 1.0), (25.0, 50.0)])
def test_relations_are_torchdistills(factors: tuple[float, float]) -> None:
    torchdistill: Any = pytest.importorskip("torchdistill.losses.mid_level")
    own, theirs = draw(5, 9, 20).requires_grad_(), draw(6, 9, 33)
    loss = torchdistill.RKDLoss("layer", "layer", *factors, reduction="mean")
    expected = loss(read_as_torchdistill(own), read_as_torchdistill(theirs))
    distance, angle = relational_distance(own, theirs), relational_angle(own, theirs)
    found = factors[0] * distance + factors[1] * angle
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(each, own, retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_similarity_is_torchdistills_once_it_takes_the_norm_of_the_paper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torchdistill: Any = pytest.importorskip("torchdistill.losses.mid_level")
    own, theirs = draw(7, 9, 20), draw(8, 9, 33)
    loss = torchdistill.SPKDLoss("layer", "layer", "batchmean")
    # It passes 1 where torch takes the power of the norm, and so divides by sums, not by norms.
    monkeypatch.setattr(
        torchdistill, "normalize", lambda rows, _: torch.nn.functional.normalize(rows, dim=1)
    )
    expected = loss(read_as_torchdistill(own), read_as_torchdistill(theirs))
    torch.testing.assert_close(similarity(own, theirs), expected)


def test_a_hint_is_the_mean_squared_error_that_torchdistills_recipes_use() -> None:
    own, theirs = draw(9, 5, 4, 3, 3), draw(10, 5, 4, 3, 3)
    torch.testing.assert_close(hint(own, theirs), torch.nn.MSELoss()(own, theirs))
