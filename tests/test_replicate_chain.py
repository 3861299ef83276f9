"""What scripts/replicate chain compares, and what it makes of the numbers."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.recipe import load_recipe
from replication import chain
from replication.recipes import FOLDER

SCRIPT = Path(__file__).parent.parent / "scripts" / "replicate"


def chains(*changes: float) -> list[chain.Chain]:
    """Chains whose small student is so many points better than the direct one."""
    return [
        chain.Chain(seed, 0.97, 0.94 + change / 100, 0.94, 0.945, 0.93)
        for seed, change in enumerate(changes)
    ]


def test_an_assistant_may_do_a_little_harm() -> None:
    report = chain.report(0.99, chains(-1.0, 0.2))
    assert report.is_met
    assert "assistant  -0.40, -8.02 to +7.22" in report.text()
    assert "both       +0.50, +0.50 to +0.50" in report.text()
    assert "labels     -1.00, -1.00 to -1.00" in report.text()


def test_an_assistant_must_not_do_more() -> None:
    report = chain.report(0.99, chains(-1.0, -0.2))
    assert not report.is_met
    assert "MISSED  the assistant's student above the direct one, points: -0.6" in report.text()


def test_a_chain_that_bridges_no_gap_proves_nothing() -> None:
    report = chain.report(0.955, chains(0.0, 0.0))
    assert not report.is_met
    assert "MISSED  large teacher's accuracy above its small student's" in report.text()


def test_the_small_students_of_a_seed_differ_in_what_teaches_them_alone(tmp_path: Path) -> None:
    large, middle = tmp_path / "large", tmp_path / "middle"
    recipes = chain.small_students(tmp_path, large, middle, 3)
    documents = {name: recipe.model_dump() for name, recipe in recipes.items()}
    assert set(documents) == {"chained", "direct", "both", "hard"}
    assert documents["chained"]["cache"]["path"] == str(middle)
    assert documents["direct"]["cache"]["path"] == str(large)
    taught = documents["both"]["training"]["teachers"]
    assert [each["cache"] for each in taught] == [str(large), str(middle)]
    assert [each["kind"] for each in documents["hard"]["losses"]] == ["hard_labels"]
    for document in documents.values():
        assert document["training"].pop("seed") == 3
        document["training"].pop("teachers")
        for name in ("cache", "losses", "run"):
            document.pop(name)
    assert all(document == documents["direct"] for document in documents.values())


def test_the_second_recipe_goes_on_where_the_first_one_ends(tmp_path: Path) -> None:
    first, second = (load_recipe(FOLDER / f"digits-{name}.toml") for name in ("assistant", "small"))
    assert first.run
    assert second.teacher
    assert second.teacher.model.model_dump() == {"kind": "run", "path": first.run.path}
    assert first.data == second.data
    text = (FOLDER / "digits-small.toml").read_text()
    for line in ("[[training.teachers]]", "cache = ", "weight = "):
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line)
    (tmp_path / "both.toml").write_text(text)
    both = load_recipe(tmp_path / "both.toml")
    assert both.training
    assert first.cache
    assert second.cache
    named = [each.cache for each in both.training.teachers]
    assert named == [first.cache.path, second.cache.path]


@pytest.mark.slow
def test_claim_holds(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, str(SCRIPT), "chain", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
