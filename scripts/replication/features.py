"""Soft targets alone, and with a loss of features beside them: does each learn, and do no harm?

No claim that features help is made or tested: the literature finds that they often do not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pipeline.progress import progress
from pipeline.recipe import Recipe
from replication.fashion import train_teacher
from replication.recipes import SOFT, shipped
from replication.report import Bar, Report
from stages import cache_teacher, train_student

# Weights such that a loss has a tenth to half of the gradient, looked at on training data alone.
LOSSES: Mapping[str, str] = {
    "hint": '{ kind = "hint", weight = 20.0, feature = "map", module = "3" }',
    "attention transfer": (
        '{ kind = "attention_transfer", weight = 300.0, feature = "map", module = "3" }'
    ),
    "relations": (
        '{ kind = "relational_distance", weight = 10.0, feature = "embedding", module = "4" }, '
        '{ kind = "relational_angle", weight = 20.0, feature = "embedding", module = "4" }'
    ),
    "cosine": (
        '{ kind = "cosine", weight = 20.0, feature = "embedding", module = "4", projection = true }'
    ),
    "similarity": '{ kind = "similarity", weight = 200.0, feature = "embedding", module = "4" }',
    "hint, then the rest": (
        '{ kind = "hint", weight = 1.0, feature = "map", module = "3", first_steps = 469 }'
    ),
}
# What the student of soft targets alone is measured by, and does not learn from.
WATCHED = (
    '{ kind = "attention_transfer", weight = 0.0, feature = "map", module = "3" }, '
    '{ kind = "relational_distance", weight = 0.0, feature = "embedding", module = "4" }, '
    '{ kind = "relational_angle", weight = 0.0, feature = "embedding", module = "4" }, '
    '{ kind = "similarity", weight = 0.0, feature = "embedding", module = "4" }'
)
ALONE = "soft targets alone"
MOST_LOST = 0.005
# Of the steps that are told of, the first and the last so many are compared.
SHOWN = 5


@dataclass(frozen=True)
class Student:
    """A student's test accuracy; of each of its losses of features the first and last values."""

    accuracy: float
    values: Mapping[str, tuple[float, float]]
    shares: Mapping[str, float]


def run(out: Path, *, seeds: int) -> Report:
    """Train the teacher, one cache and `seeds` students of each kind under `out`."""
    teacher = train_teacher(out)
    cache_teacher.run(_recipe(out, {}))
    found: dict[str, list[Student]] = {}
    with progress("features", total=seeds * (1 + len(LOSSES)), unit="students") as advance:
        for name in (ALONE, *LOSSES):
            found[name] = [_train(out, name, seed) for seed in range(seeds)]
            advance(seeds, f"{name}: {mean(each.accuracy for each in found[name]):.4f}")
    return report(found, teacher.accuracy)


def report(found: Mapping[str, list[Student]], teacher: float) -> Report:
    """Lay out accuracies, what became of each loss, and its part in the gradient."""
    alone = found[ALONE]
    table = [
        f"Fashion-MNIST, teacher {teacher:.2%}, students of {len(alone)} seeds",
        f"{'soft targets, and':22} {'accuracy':>16} {'of the gradient':>16}  its loss: first, "
        "last, and last with soft targets alone",
        _row("nothing else", alone, ""),
    ]
    bars = []
    for name, students in found.items():
        if name == ALONE:
            continue
        told = []
        for kind in students[0].values:
            first, last = (mean(each.values[kind][at] for each in students) for at in (0, 1))
            # With a projection that nothing taught, there is nothing to compare with.
            other = [each.values[kind][1] for each in alone if kind in each.values]
            told.append(f"{first:.3g}, {last:.3g}" + (f", {mean(other):.3g}" if other else ""))
            bars.append(
                Bar(
                    f"{kind} in '{name}', last / {'last without it' if other else 'first'}",
                    last / (mean(other) if other else first),
                    "<=",
                    1.0,
                )
            )
        table.append(_row(name, students, "; ".join(told)))
        lost = _accuracy(alone) - _accuracy(students)
        bars.append(Bar(f"accuracy lost with '{name}'", lost, "<=", MOST_LOST))
    return Report(table, bars)


def _row(name: str, students: list[Student], told: str) -> str:
    spread = stdev(each.accuracy for each in students) if len(students) > 1 else 0.0
    share = mean(sum(each.shares.values()) for each in students)
    line = f"{name:22} {_accuracy(students):>8.2%} ± {spread:.2%} {share:>16.1%}  {told}"
    return line.rstrip()


def _accuracy(students: list[Student]) -> float:
    return mean(each.accuracy for each in students)


def recipe_of(out: Path, name: str, seed: int) -> Recipe:
    """The recipe of one student."""
    losses = f"{SOFT[:-1]}, {WATCHED if name == ALONE else LOSSES[name]}]"
    place = name.replace(",", "").replace(" ", "-")
    run = out / f"{place}-{seed}"
    return _recipe(out, {"losses": losses, "training.seed": seed, "run.path": run})


def _train(out: Path, name: str, seed: int) -> Student:
    """Train a student, or find it there."""
    recipe = recipe_of(out, name, seed)
    ended: dict[str, Any] = train_student.run(recipe, quiet=True)
    assert recipe.run
    lines = [
        json.loads(line)
        for line in (recipe.locate(recipe.run.path) / "metrics.jsonl").read_text().splitlines()
    ]
    kinds: list[str] = [loss.kind for loss in recipe.losses[2:]]
    values = {}
    for kind in kinds:
        told = [line[kind] for line in lines if kind in line]
        values[kind] = (mean(told[:SHOWN]), mean(told[-SHOWN:]))
    shares = {kind: ended["gradient_share"].get(kind, 0.0) for kind in kinds}
    return Student(ended["test"]["accuracy"], values, shares)


def _recipe(out: Path, values: Mapping[str, Path | int | str]) -> Recipe:
    paths = {"teacher.model.path": out / "fashion-teacher", "cache.path": out / "features"}
    return shipped("fashion-features", {**paths, **values})
