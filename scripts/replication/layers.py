"""Half a teacher to begin with: DistilBERT's three losses, from teacher layers and from nothing.

Both students of a pair see the same masks in the same order; held-out text is seen in one view.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.experiment import open_data
from pipeline.losses import hard_labels
from pipeline.progress import progress
from pipeline.recipe import Recipe
from pipeline.store import open_cache
from pipeline.stream import Stream
from pipeline.targets import Targets
from replication.interval import t_interval
from replication.recipes import shipped
from replication.report import Bar, Report
from stages import cache_teacher, train_student


@dataclass(frozen=True)
class Student:
    """How far a student is from held-out text, and from what its teacher says of it, in nats."""

    nll: float
    teacher_kl: float


@dataclass(frozen=True)
class Pair:
    """Two students that differ in what they begin as alone."""

    seed: int
    layers: Student
    nothing: Student


def run(out: Path, *, seeds: int) -> Report:
    """Train teacher, caches and `seeds` pairs of students under `out`, and compare."""
    train_student.run(shipped("shakespeare-masked-teacher", {"run.path": out / "masked-teacher"}))
    cache_teacher.run(_recipe(out, {}))
    held_out = {"cache.data": "validation", "targets.selection": '{ kind = "all" }'}
    cache_teacher.run(_recipe(out, {**held_out, "cache.path": out / "held-out"}))
    with progress("layers", total=2 * seeds, unit="students") as advance:
        pairs = []
        for seed in range(seeds):
            pairs.append(Pair(seed, _train(out, seed, True), _train(out, seed, False)))
            advance(2, f"nll {pairs[-1].layers.nll:.3f} and {pairs[-1].nothing.nll:.3f}")
    return report(pairs, teacher_nll(out))


def teacher_nll(out: Path) -> float:
    """Average what the teacher is surprised by, over the very masks that students are asked."""
    samples, cache = open_data(_recipe(out, {}), "validation"), open_cache(out / "held-out")
    surprise, positions = 0.0, 0
    for batch in Stream(samples, cache, batch_size=256, seed=None, check=False):
        assert isinstance(batch.targets, Targets)
        surprise += float(hard_labels(batch.targets.logits, batch.labels, count=1.0))
        positions += len(batch.labels)
    return surprise / positions


def report(pairs: list[Pair], teacher_nll: float) -> Report:
    """Lay out the pairs, and by how much the students that begin as layers are ahead."""
    table = [
        f"Shakespeare by bytes, the teacher's held-out nll {teacher_nll:.3f}; students of 2 of its "
        "3 layers, soft + hard + cosine by 5 / 2 / 1",
        f"{'seed':>4} {'nll, layers':>12} {'nothing':>8} {'KL, layers':>11} {'nothing':>8}",
        *(
            f"{p.seed:>4} {p.layers.nll:>12.4f} {p.nothing.nll:>8.4f} "
            f"{p.layers.teacher_kl:>11.4f} {p.nothing.teacher_kl:>8.4f}"
            for p in pairs
        ),
    ]
    bars = []
    for name, key in (("nll", "nll"), ("KL to the teacher", "teacher_kl")):
        gain = t_interval([getattr(p.nothing, key) - getattr(p.layers, key) for p in pairs])
        table.append(
            f"mean gain in {name} {gain.mean:.4f}, 95 % interval {gain.low:.4f} to {gain.high:.4f}"
        )
        bars.append(Bar(f"lower end of the interval of the gain in {name}", gain.low, ">", 0.0))
    return Report(table, bars)


def recipe_of(out: Path, seed: int, *, begins_as_layers: bool) -> Recipe:
    """The recipe of one student of a pair."""
    name = "layers" if begins_as_layers else "nothing"
    recipe = _recipe(
        out,
        {
            "training.seed": seed,
            "validation.cache": out / "held-out",
            "run.path": out / f"{name}-{seed}",
        },
    )
    assert recipe.student
    if begins_as_layers:
        return recipe
    student = recipe.student.model_copy(update={"initialise": None})
    return recipe.model_copy(update={"student": student})


def _train(out: Path, seed: int, begins_as_layers: bool) -> Student:
    """Train a student, or find it there."""
    recipe = recipe_of(out, seed, begins_as_layers=begins_as_layers)
    found: dict[str, Any] = train_student.run(recipe, quiet=True)["validation"]
    return Student(found["nll"], found["teacher_kl"])


def _recipe(out: Path, values: dict[str, Path | int | str]) -> Recipe:
    paths = {"teacher.model.path": out / "masked-teacher", "cache.path": out / "masked"}
    return shipped("shakespeare-distilbert", {**paths, **values})
