"""Soft targets are worth it: the same 100 labelled digits, with and without the teacher's answers.

The better checkpoint is chosen on the validation split; the test split is only looked at here.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.progress import progress
from replication.interval import t_interval
from replication.recipes import HARD, SOFT, shipped
from replication.report import Bar, Report
from stages import cache_teacher, train_student

LEAST_STEPS = 2000
LEAST_GAIN = 2.0  # points


@dataclass(frozen=True)
class Pair:
    """Test accuracies of two students that differ in their losses alone; the fewer steps."""

    seed: int
    hard: float
    soft: float
    steps: int

    @property
    def gain(self) -> float:
        """Percentage points."""
        return 100 * (self.soft - self.hard)


def run(out: Path, *, seeds: int) -> Report:
    """Train teacher, cache and `seeds` pairs of students under `out`, and compare."""
    teacher, cache = out / "digits-teacher", out / "digits-cache"
    train_student.run(shipped("digits-teacher", {"run.path": teacher}), quiet=True)
    cache_teacher.run(
        shipped("digits", {"teacher.model.path": teacher, "cache.path": cache}), quiet=True
    )
    with progress("soft-targets", total=2 * seeds, unit="students") as advance:
        pairs = []
        for seed in range(seeds):
            pairs.append(_train_pair(out, cache, seed))
            advance(2, f"gain {pairs[-1].gain:+.1f}")
    return report(pairs)


def report(pairs: list[Pair]) -> Report:
    """Lay out the pairs and their mean gain."""
    gain = t_interval([pair.gain for pair in pairs])
    table = [
        "100 labelled digits, test accuracy on 500, 0.1 hard + 0.9 soft at T = 4 from the cache",
        f"{'seed':>4} {'hard':>8} {'soft':>8} {'gain':>7}",
        *(f"{p.seed:>4} {p.hard:>8.1%} {p.soft:>8.1%} {p.gain:>+7.1f}" for p in pairs),
        f"mean gain {gain.mean:+.2f} points, 95 % interval {gain.low:+.2f} to {gain.high:+.2f}",
    ]
    bars = [
        Bar("optimiser steps", min(pair.steps for pair in pairs), ">=", LEAST_STEPS),
        Bar("lower end of the gain's interval, points", gain.low, ">", LEAST_GAIN),
    ]
    return Report(table, bars)


def _train_pair(out: Path, cache: Path, seed: int) -> Pair:
    hard, soft = (
        train_student.run(
            shipped(
                "digits",
                {
                    "cache.path": cache,
                    "training.seed": seed,
                    "losses": losses,
                    "run.path": out / f"digits-{name}-{seed}",
                },
            ),
            quiet=True,
        )
        for name, losses in (("hard", HARD), ("soft", SOFT))
    )
    return Pair(
        seed,
        hard["test"]["accuracy"],
        soft["test"]["accuracy"],
        min(hard["steps"], soft["steps"]),
    )
