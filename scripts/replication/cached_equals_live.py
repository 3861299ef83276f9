"""Cached equals live: a student cannot tell a cache from the teacher itself, nor four classes and
their tail from all ten.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from pipeline.recipe import Recipe
from pipeline.training.run_folder import METRICS
from replication.fashion import Teacher, train_teacher
from replication.live import train_live
from replication.recipes import SOFT, shipped
from replication.report import Bar, Report
from stages import cache_teacher, train_student

COMPARED_STEPS = 50
MOST_LOSS_DIFFERENCE = 1e-3
MOST_LIVE_POINTS, MOST_TOP_K_POINTS = 0.3, 0.5
SELECTIONS = {"all": '{ kind = "all" }', "top-4": '{ kind = "top_k", k = 4 }'}
# What a line of metrics says beside losses.
NOT_LOSSES = frozenset({"step", "epoch", "learning_rate"})


@dataclass(frozen=True)
class Trio:
    """Three students of one seed: test accuracies, and how far losses of the first two differ."""

    seed: int
    loss_difference: float
    live: float
    cached: float
    top_k: float

    @property
    def live_points(self) -> float:
        """How far the cache is from the live teacher, in percentage points."""
        return points(self.cached, self.live)

    @property
    def top_k_points(self) -> float:
        """How far top-4 is from all classes, in percentage points."""
        return points(self.top_k, self.cached)


def run(out: Path, *, seeds: int, epochs: int) -> Report:
    """Train a teacher, two caches and `seeds` trios of students under `out`, and compare.

    Raises: SampleError if Fashion-MNIST is not on this machine.
    """
    teacher = train_teacher(out)
    for name in SELECTIONS:
        cache_teacher.run(_recipe(out, name, seed=0, epochs=epochs))
    return report(teacher, [_train_trio(out, seed, epochs) for seed in range(seeds)], epochs)


def report(teacher: Teacher, trios: list[Trio], epochs: int) -> Report:
    """Lay out the trios; live and cached must agree in each, top-4 and all on average."""
    top_k_mean = round(mean(trio.top_k_points for trio in trios), 9)
    table = [
        f"Fashion-MNIST, {epochs} epochs, 0.1 hard + 0.9 soft at T = 4; test accuracy on 10,000",
        f"{'seed':>4} {'live':>8} {'cached':>8} {'points':>7} {'top-4':>8} {'points':>7}"
        f"   losses differ, first {COMPARED_STEPS} steps",
        *(
            f"{t.seed:>4} {t.live:>8.2%} {t.cached:>8.2%} {t.live_points:>+7.2f}"
            f" {t.top_k:>8.2%} {t.top_k_points:>+7.2f}   {t.loss_difference:.1e}"
            for t in trios
        ),
        f"top-4 with its tail against all classes: {top_k_mean:+.2f} points on average",
    ]
    bars = [
        teacher.bar(),
        Bar(
            "largest relative difference of a loss",
            max(trio.loss_difference for trio in trios),
            "<=",
            MOST_LOSS_DIFFERENCE,
        ),
        Bar(
            "cached against live, worst seed, points",
            max(abs(trio.live_points) for trio in trios),
            "<=",
            MOST_LIVE_POINTS,
        ),
        Bar(
            "top-4 against all, mean over seeds, points",
            abs(top_k_mean),
            "<=",
            MOST_TOP_K_POINTS,
        ),
    ]
    return Report(table, bars)


def points(accuracy: float, reference: float) -> float:
    """Subtract accuracies in percentage points; 0.3 is then 0.3, not a last bit more."""
    return round(100 * (accuracy - reference), 9)


def largest_difference(
    cached: Iterable[Mapping[str, Any]], live: Iterable[Mapping[str, Any]]
) -> float:
    """Compare two runs' losses step by step, relative to the live ones."""
    pairs = list(zip(cached, live, strict=True))
    assert [line["step"] for line, _ in pairs] == [line["step"] for _, line in pairs]
    return max(
        float(abs(ours[name] - theirs[name]) / abs(theirs[name]))
        for ours, theirs in pairs
        for name in theirs.keys() - NOT_LOSSES
    )


def read_losses(run_folder: Path, steps: int) -> list[dict[str, Any]]:
    """Read the first steps' lines of a run's metrics."""
    lines = map(json.loads, (run_folder / METRICS).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "loss" in line and line["step"] <= steps]


def _train_trio(out: Path, seed: int, epochs: int) -> Trio:
    recipes = {name: _recipe(out, name, seed=seed, epochs=epochs) for name in SELECTIONS}
    results = {name: train_student.run(recipe) for name, recipe in recipes.items()}
    live = train_live(recipes["all"])
    cached_lines = read_losses(Path(results["all"]["run"]), COMPARED_STEPS)
    return Trio(
        seed,
        largest_difference(cached_lines, live.lines[:COMPARED_STEPS]),
        live=live.test["accuracy"],
        cached=results["all"]["test"]["accuracy"],
        top_k=results["top-4"]["test"]["accuracy"],
    )


def _recipe(out: Path, selection: str, *, seed: int, epochs: int) -> Recipe:
    return shipped(
        "fashion",
        {
            "teacher.model.path": out / "fashion-teacher",
            "targets.selection": SELECTIONS[selection],
            "cache.path": out / f"fashion-cache-{selection}",
            "losses": SOFT,
            "training.seed": seed,
            "training.epochs": epochs,
            "training.log_every": 1,
            "run.path": out / f"fashion-{selection}-{epochs}-epochs-{seed}",
        },
    )
