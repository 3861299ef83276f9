"""The logic of the replications on language models, on tiny things."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.recipe import load_recipe
from pipeline.targets import TargetSpec, fit_basis
from replication import language_tails, selections
from replication.language_tails import Answers
from replication.remember import Remembering
from replication.selections import FULL, LARGE, SMALL, Row
from replication.vocabulary import choose, renumbered

TOKENIZER = {
    "added_tokens": [{"id": 0, "content": "<end>"}],
    "model": {
        "vocab": {"<end>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "abc": 5, "bc": 6, "ca": 7},
        "merges": [["a", "b"], ["ab", "c"], ["b", "c"], ["c", "a"]],
    },
}


def test_a_cut_vocabulary_keeps_what_its_tokens_are_merged_from() -> None:
    # "abc" is used most, so "ab" stays as well, which is not used by itself.
    kept = choose(TOKENIZER, Counter({5: 9, 7: 1, 6: 2}), 6)
    assert kept == [0, 1, 2, 3, 4, 5]
    cut = renumbered(TOKENIZER, [0, 1, 2, 3, 6, 7])
    assert cut["model"]["vocab"] == {"<end>": 0, "a": 1, "b": 2, "c": 3, "bc": 4, "ca": 5}
    assert cut["model"]["merges"] == [["b", "c"], ["c", "a"]]
    assert cut["added_tokens"] == [{"id": 0, "content": "<end>"}]


class Counting(nn.Module):
    """Stands for a model of transformers, and counts how often its body is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.lm_head = nn.Linear(3, 5)
        self.asked = 0

    def model(self, tokens: Tensor) -> "Counting":
        self.asked += 1
        self.last_hidden_state = self.embedding(tokens)
        return self


@torch.inference_mode()
def test_a_remembering_teacher_asks_its_body_once_for_each_batch(tmp_path: Path) -> None:
    model = Counting()
    teacher = Remembering(model, tmp_path / "memory")
    one, other = torch.tensor([[1, 2]]), torch.tensor([[2, 1]])
    answers = [teacher(tokens) for tokens in (one, other, one)]
    assert model.asked == 2
    assert torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], answers[1])


def test_selections_are_told_as_ratios_to_all_classes() -> None:
    rows = [
        Row("hard labels", 1.0, 2, [3.0, 3.2], [90.0, 92.0]),
        *(
            Row(name, t, size, [2.0 * lost, 2.2 * lost], [50.0, 52.0])
            for t in (1.0, 2.0, 4.0)
            for name, size, lost in ((SMALL, 36, 1.03), (LARGE, 94, 1.01), (FULL, 32_774, 1.0))
        ),
    ]
    report = selections.report(rows)
    assert report.table[2] == "hard labels      1       2  3.1000 0.1414   1.476      91.00"
    assert [round(bar.measured, 3) for bar in report.bars] == [1.03, 1.01, 1.01, 1.01]
    assert report.is_met


def test_every_row_of_selections_is_a_recipe_that_loads(tmp_path: Path) -> None:
    for name in selections.CACHES:
        recipe = selections._recipe(tmp_path, name, {"run.path": tmp_path / "run"})
        assert recipe.targets
        assert recipe.targets.tail is not None
        assert recipe.cache
        assert recipe.locate(recipe.cache.path) == tmp_path / name
    shown = load_recipe(selections.HERE / "selections.toml")
    assert shown.name == "selections"


@pytest.fixture
def answers() -> Answers:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(300, 6, generator=generator)
    return Answers(states, torch.randn(90, 6, generator=generator))


def test_tails_shapes_and_draws_are_measured_against_the_truth(answers: Answers) -> None:
    worst, apart = language_tails.tail_errors(answers, 16)
    assert 0 < worst < 0.01
    assert apart < 1e-5
    basis = fit_basis(answers.logits, 5, 0)
    near = language_tails.shape_losses(answers, TargetSpec("top_k", 90, 8, rank=5), basis)
    rough = fit_basis(answers.logits, 1, 0)
    far = language_tails.shape_losses(answers, TargetSpec("top_k", 90, 8, rank=1), rough)
    assert all(0 < near[t] < far[t] for t in near)
    measured, expected = language_tails.squared_errors(answers, "hybrid", 4, 8)
    assert measured == pytest.approx(expected, rel=0.1)
