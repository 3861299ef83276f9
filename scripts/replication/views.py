"""Consistent views are worth it: teacher and student see the same shifted, noisy digits.

Accuracy on the test split after the last step; nothing is chosen by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from pipeline.progress import progress
from pipeline.recipe import Recipe
from replication.interval import t_interval
from replication.live import train_live
from replication.plot import draw_views, need_plots
from replication.recipes import shipped
from replication.report import Bar, Report
from stages import cache_teacher, train_student

COUNTS = (1, 2, 4, 16, 64)
LEAST_GAIN, MOST_BELOW_LIVE = 2.0, 0.5  # points
FIXED, LIVE = "fixed", "live"


@dataclass(frozen=True)
class Students:
    """Test accuracies of the students of one seed, by what they learned from."""

    seed: int
    fixed: float
    live: float
    by_count: Mapping[int, float]

    @property
    def gain(self) -> float:
        """Percentage points of the most views over targets of images as they are."""
        return 100 * (self.by_count[COUNTS[-1]] - self.fixed)


def run(out: Path, *, seeds: int) -> Report:
    """Train the teacher, its caches and `seeds` students of each kind under `out`, and compare."""
    need_plots()
    train_student.run(shipped("digits-teacher", {"run.path": out / "digits-teacher"}), quiet=True)
    for count in COUNTS:
        cache_teacher.run(cached(out, count), quiet=True)
    cache_teacher.run(clean(out), quiet=True)
    kinds = len(COUNTS) + 2
    with progress("views", total=kinds * seeds, unit="students") as advance:
        found = []
        for seed in range(seeds):
            found.append(_train(out, seed))
            advance(kinds, f"gain {found[-1].gain:+.1f}")
    draw_views(out / "views.png", found)
    return report(found, out / "views.png")


def report(found: list[Students], plot: Path) -> Report:
    """Lay out accuracies by what was cached, the gain, and what more views would still bring."""
    columns: dict[str, list[float]] = {
        "fixed targets": [each.fixed for each in found],
        **{f"{n} view{'s' if n > 1 else ''}": [e.by_count[n] for e in found] for n in COUNTS},
        "live teacher": [each.live for each in found],
    }
    gain = t_interval([each.gain for each in found])
    behind = t_interval([100 * (each.live - each.by_count[COUNTS[-1]]) for each in found])
    table = [
        f"100 digits, shifted by up to 1.5 pixels and noisy; test accuracy, {len(found)} seeds",
        *(
            f"{name:14} {mean(values):>7.2%} ± {stdev(values):.2%}"
            for name, values in columns.items()
        ),
        f"{COUNTS[-1]} views over fixed targets: {gain.mean:+.2f} points, 95 % interval "
        f"{gain.low:+.2f} to {gain.high:+.2f}",
        f"the live teacher over {COUNTS[-1]} views: {behind.mean:+.2f} points, 95 % interval "
        f"{behind.low:+.2f} to {behind.high:+.2f}",
        f"plotted: {plot}",
    ]
    bars = [
        Bar("lower end of the gain's interval, points", gain.low, ">", LEAST_GAIN),
        Bar("points below the live teacher", behind.mean, "<=", MOST_BELOW_LIVE),
    ]
    return Report(table, bars)


def cached(out: Path, count: int, values: Mapping[str, Path | int | str] | None = None) -> Recipe:
    """The recipe of a cache of so many views, and of a student of it."""
    paths = {"teacher.model.path": out / "digits-teacher", "cache.path": out / f"views-{count}"}
    recipe = shipped("digits-views", {**paths, "views.count": count, **(values or {})})
    return recipe.model_copy(update={"validation": None})


def clean(out: Path) -> Recipe:
    """The recipe of a cache of images as they are."""
    return cached(out, 1, {"cache.path": out / "clean"}).model_copy(update={"views": None})


def _train(out: Path, seed: int) -> Students:
    """Train the students of a seed, or find them there."""
    by_count = {
        count: _accuracy(
            cached(out, count, {"training.seed": seed, "run.path": out / f"views-{count}-{seed}"})
        )
        for count in COUNTS
    }
    fixed: dict[str, Path | int | str] = {
        "training.seed": seed,
        "training.views": '"fresh"',
        "cache.path": out / "clean",
        "run.path": out / f"{FIXED}-{seed}",
    }
    live = train_live(cached(out, 1, {"training.seed": seed}), quiet=True)
    return Students(seed, _accuracy(cached(out, 1, fixed)), live.test["accuracy"], by_count)


def _accuracy(recipe: Recipe) -> float:
    accuracy: float = train_student.run(recipe, quiet=True)["test"]["accuracy"]
    return accuracy
