"""What scripts/replicate says of features and of views, from made-up students."""

import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.recipe import Recipe
from replication import features, plot, views
from replication.features import ALONE, LOSSES, Student
from replication.views import COUNTS, Students

FALLING = {"hint": (0.4, 0.3)}


def students(name: str, *, accuracy: float, last: float) -> list[Student]:
    kinds = {"hint": ["hint"], ALONE: ["similarity"], "similarity": ["similarity"]}[name]
    return [Student(accuracy + each, dict.fromkeys(kinds, (0.4, last)), {}) for each in (0.0, 0.01)]


def test_a_loss_that_falls_and_does_no_harm_meets_its_bars() -> None:
    found = {
        ALONE: students(ALONE, accuracy=0.85, last=0.2),
        "hint": students("hint", accuracy=0.846, last=0.3),
        "similarity": students("similarity", accuracy=0.86, last=0.1),
    }
    report = features.report(found, teacher=0.92)
    assert report.is_met
    text = report.text()
    assert "nothing else             85.50% ± 0.71%" in text
    assert "similarity in 'similarity', last / last without it: 0.5 (<= 1)" in text
    assert "hint in 'hint', last / first: 0.75 (<= 1)" in text
    assert "accuracy lost with 'hint': 0.004 (<= 0.005)" in text


@pytest.mark.parametrize(("accuracy", "last"), [(0.84, 0.3), (0.85, 0.5)], ids=["harm", "rises"])
def test_harm_and_a_loss_that_rises_are_missed(accuracy: float, last: float) -> None:
    found = {
        ALONE: students(ALONE, accuracy=0.85, last=0.2),
        "hint": students("hint", accuracy=accuracy, last=last),
    }
    report = features.report(found, teacher=0.92)
    assert [bar.is_met for bar in report.bars].count(False) == 1


@pytest.mark.parametrize("name", [ALONE, *LOSSES])
def test_the_recipe_of_every_student_is_allowed(name: str, tmp_path: Path) -> None:
    recipe = features.recipe_of(tmp_path, name, 3)
    assert recipe.losses[0].kind == "soft_targets"
    assert len(recipe.losses) > 2
    assert (recipe.training and recipe.training.seed) == 3


def made(seed: int, gain: float) -> Students:
    by_count = dict(zip(COUNTS, (0.88, 0.9, 0.92, 0.94, 0.95 + seed / 1000), strict=True))
    return Students(seed, 0.95 + seed / 1000 - gain, 0.951, by_count)


def test_views_are_compared_with_fixed_targets_and_the_live_teacher(tmp_path: Path) -> None:
    found = [made(seed, 0.04 + seed / 2000) for seed in range(4)]
    report = views.report(found, tmp_path / "views.png")
    assert report.is_met
    assert "64 views over fixed targets: +4.08 points" in report.text()
    assert not views.report([made(s, 0.021 + s / 100) for s in range(4)], tmp_path).is_met


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    plot.draw_views(tmp_path / "views.png", [made(0, 0.04), made(1, 0.04)])
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")


def test_the_students_of_a_seed_differ_in_what_was_cached_alone(tmp_path: Path) -> None:
    one, many = views.cached(tmp_path, 1), views.cached(tmp_path, 64)
    assert one.views
    assert many.views
    assert (one.views.count, many.views.count) == (1, 64)
    assert one.views.augment == many.views.augment
    clean: Recipe = views.clean(tmp_path)
    assert clean.views is None
    assert clean.losses == many.losses


def test_without_matplotlib_views_are_refused_before_the_long_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PipelineError, match=r"Install it: pip install .*\[plots\]"):
        views.run(tmp_path, seeds=2)
    assert not any(tmp_path.iterdir())
