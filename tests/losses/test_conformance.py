"""Our losses are those of other tools, where theirs are defined: `pytest -m conformance`.

Needs what the project does not: `pip install trl datasets torchdistill` (seen with trl 1.16.0 and
torchdistill 1.1.5).
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.losses import cosine, hard_labels, soft_targets
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
