"""DistilBERT's loss: 5 T^2 KL + 2 masked tokens + 1 cosine, against slow loops and their functions.

Source: Sanh et al. 2019, arXiv:1910.01108, section 3, and the distiller.py beside it.
"""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.losses import cosine, hard_labels, soft_targets
from pipeline.recipe import load_recipe
from pipeline.targets import Targets

RECIPE = Path(__file__).parents[2] / "data/recipes/shakespeare-distilbert.toml"
ROWS, LENGTH, CLASSES, WIDTH = 2, 5, 7, 4
TEMPERATURE, SOFT, MASKED, COSINE = 2.0, 5.0, 2.0, 1.0
# The tokens that are asked for; -100 for others, as DistilBERT has it.
LABELS = torch.tensor([[-100, 3, -100, 0, 6], [5, -100, -100, -100, 1]])
ASKED = LABELS != -100


def draw(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(ROWS, LENGTH, *shape, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER = draw(0, CLASSES), draw(1, CLASSES)
STATES, WANTED = draw(2, WIDTH), draw(3, WIDTH)


def ours() -> Tensor:
    """The three losses of the asked tokens, as the training loop adds them up."""
    relative = TEACHER[ASKED] - TEACHER[ASKED].amax(1, keepdim=True)
    soft = soft_targets(STUDENT[ASKED], Targets(CLASSES, relative), temperature=TEMPERATURE)
    hard = hard_labels(STUDENT[ASKED], LABELS[ASKED])
    return SOFT * soft + MASKED * hard + COSINE * cosine(STATES[ASKED], WANTED[ASKED])


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(each / temperature) for each in logits]
    return [each / sum(powers) for each in powers]


def test_the_total_is_that_of_loops() -> None:
    total, count = 0.0, 0
    for row in range(ROWS):
        for place in range(LENGTH):
            label = int(LABELS[row, place])
            if label == -100:
                continue
            student, teacher = STUDENT[row, place].tolist(), TEACHER[row, place].tolist()
            q, p = softmax(student, TEMPERATURE), softmax(teacher, TEMPERATURE)
            kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            one, other = STATES[row, place].tolist(), WANTED[row, place].tolist()
            dot = sum(a * b for a, b in zip(one, other, strict=True))
            angle = dot / (math.hypot(*one) * math.hypot(*other))
            total += SOFT * TEMPERATURE**2 * kl
            total += MASKED * -math.log(softmax(student, 1.0)[label]) + COSINE * (1 - angle)
            count += 1
    assert ours().item() == pytest.approx(total / count, rel=1e-5)


def test_the_total_is_that_of_distilberts_functions_where_it_asks_masked_tokens_alone() -> None:
    # Its option restrict_ce_to_mask; the cosine's mask is cut to the same tokens here.
    kl = nn.KLDivLoss(reduction="batchmean")(
        (STUDENT[ASKED] / TEMPERATURE).log_softmax(-1), (TEACHER[ASKED] / TEMPERATURE).softmax(-1)
    )
    masked = nn.CrossEntropyLoss(ignore_index=-100)(STUDENT.view(-1, CLASSES), LABELS.view(-1))
    angles = nn.CosineEmbeddingLoss(reduction="mean")(
        STATES[ASKED], WANTED[ASKED], torch.ones(int(ASKED.sum()))
    )
    total = SOFT * kl * TEMPERATURE**2 + MASKED * masked + COSINE * angles
    assert ours().item() == pytest.approx(total.item(), rel=1e-5)


def test_its_masked_tokens_are_those_of_transformers() -> None:
    utils = pytest.importorskip("transformers.loss.loss_utils")
    theirs = utils.ForMaskedLMLoss(STUDENT, LABELS, CLASSES)
    assert hard_labels(STUDENT[ASKED], LABELS[ASKED]).item() == pytest.approx(theirs.item())


def test_the_recipe_that_ships_weighs_them_so() -> None:
    recipe = load_recipe(RECIPE)
    weights = {loss.kind: loss.weight for loss in recipe.losses}
    assert weights == {"soft_targets": SOFT, "hard_labels": MASKED, "cosine": COSINE}
    [soft] = [loss for loss in recipe.losses if loss.kind == "soft_targets"]
    assert soft.temperature == TEMPERATURE
    assert recipe.student
    assert recipe.student.initialise
    assert recipe.student.initialise.layers == "every_other"
