"""Pseudo-labels help beside labels, balance helps, and skewed ones alone do harm, which is told.

Digits: 100 labels, 900 images without. Two teachers of the 100 labels a seed: a good one, a larger
network trained to its end, and a hasty one, which is sure of a few classes alone. Accuracy on the
test split; the better checkpoint is chosen on the validation split, which calibrates as well.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from pipeline.progress import progress
from pipeline.recipe import Recipe
from replication.interval import t_interval
from replication.recipes import HARD, Values, as_toml, shipped
from replication.report import Bar, Report
from stages import cache_teacher, pseudo_label, train_student

LABELS, STEPS = 100, 1000
# Confidence that makes a pseudo-label: of the good teacher; of the hasty one, where it is to be
# very sure, and where balance is compared.
GOOD, SURE, UNSURE = 0.9, 0.97, 0.5
LEAST_GAIN = 1.0  # point
SOFT = (
    '[{ kind = "hard_labels", weight = 1.0 }, '
    '{ kind = "soft_targets", weight = 1.0, temperature = 2.0 }]'
)
ALONE = '[{ kind = "pseudo_labels", weight = 1.0 }]'
# How the hasty teacher is trained: the student's network, for a tenth of the steps.
HASTILY: dict[str, Path | int | str] = {
    "student.model": '{ kind = "python", factory = "models:digits_student" }',
    "training.epochs": 100,
}


@dataclass(frozen=True)
class Students:
    """Test accuracies of one seed: of the teachers, and of students by what they learned from."""

    seed: int
    good: float
    hasty: float
    labels: float
    noisy_labels: float
    both: float
    balanced: float
    unbalanced: float
    sure: float
    warned: tuple[str, ...]


def run(out: Path, *, seeds: int) -> Report:
    """Train teachers and students of `seeds` choices of the labels under `out`, and compare."""
    found = []
    with progress("pseudo-labels", total=8 * seeds, unit="networks") as advance:
        for seed in range(seeds):
            found.append(_train(out / f"seed-{seed}", seed))
            advance(8, f"labels {found[-1].labels:.1%}, with pseudo-labels {found[-1].both:.1%}")
    return report(found)


def report(found: list[Students]) -> Report:
    """Lay out accuracies, and what pseudo-labels, balance and being alone change."""
    names = ("labels", "noisy_labels", "both", "balanced", "unbalanced", "sure")
    gain = t_interval([100 * (each.both - each.labels) for each in found])
    of_noise = t_interval([100 * (each.both - each.noisy_labels) for each in found])
    of_balance = t_interval([100 * (each.balanced - each.unbalanced) for each in found])
    harm = t_interval([100 * (each.sure - each.labels) for each in found])
    intervals = {
        "labels, soft pseudo-labels and noise over labels": gain,
        "the same over labels with the same noise": of_noise,
        f"hard labels of the hasty teacher alone ({UNSURE:g}), balanced over not": of_balance,
        f"those it is sure of ({SURE:g}), alone and not balanced, over labels": harm,
    }
    table = [
        f"{LABELS} labelled digits, 900 without; test accuracy on 500",
        f"{'':>5} {'teachers':>13} | {'labels':>8} {'+ noise':>8} {'+ soft':>8} | "
        f"{'hasty alone: balanced':>21} {'not':>8} {'sure, not':>10}",
        f"{'seed':>5} {'good':>6} {'hasty':>6} |",
        *(
            f"{each.seed:>5} {each.good:>6.1%} {each.hasty:>6.1%} | {each.labels:>8.1%} "
            f"{each.noisy_labels:>8.1%} {each.both:>8.1%} | {each.balanced:>21.1%} "
            f"{each.unbalanced:>8.1%} {each.sure:>10.1%}"
            for each in found
        ),
        "mean  "
        + "  ".join(f"{name} {mean(getattr(e, name) for e in found):.2%}" for name in names),
        *(
            f"{name}: {each.mean:+.2f} points, 95 % interval {each.low:+.2f} to {each.high:+.2f}"
            for name, each in intervals.items()
        ),
    ]
    warned = [name for each in found for name in each.warned]
    bars = [
        Bar("lower end of the gain's interval, points", gain.low, ">", LEAST_GAIN),
        Bar("lower end of the interval of balance, points", of_balance.low, ">", 0.0),
        Bar("upper end of the interval of being alone, points", -harm.high, ">", 0.0),
        Bar("runs warned of, of the sure", warned.count("sure") / len(found), ">=", 1.0),
        Bar("others warned of", len(set(warned) - {"sure", "unbalanced"}), "<=", 0),
    ]
    return Report(table, bars)


def recipe(folder: Path, seed: int, values: Values) -> Recipe:
    """The shipped recipe over one choice of the labels."""
    return shipped(
        "digits-unlabelled",
        {
            "data.labelled.subset": f"{{ count = {LABELS}, seed = {seed} }}",
            "data.unlabelled.subset": f"{{ skip = {LABELS}, seed = {seed} }}",
            "teacher.model.path": folder / "teacher",
            "cache.path": folder / "cache",
            "pseudo_labels.labelled_cache": folder / "held-out",
            "training.steps": STEPS,
            "training.seed": seed,
            **values,
        },
    )


def _train(out: Path, seed: int) -> Students:
    """Train the networks of a seed, or find them there."""
    good = _teach(out / "good", seed, {})
    hasty = _teach(out / "hasty", seed, HASTILY)
    tables = {
        "both": _label(out / "good", seed, GOOD, balanced=True),
        "balanced": _label(out / "hasty", seed, UNSURE, balanced=True),
        "unbalanced": _label(out / "hasty", seed, UNSURE, balanced=False),
        "sure": _label(out / "hasty", seed, SURE, balanced=False),
    }
    labels = '[{ data = "labelled", rows = 50 }]'
    beside = _source(tables["both"], out / "good" / "cache")
    both = f'[{{ data = "labelled", rows = 10 }}, {beside}]'
    clean = '"replay"'
    students: dict[str, Values] = {
        "labels": {"training.sources": labels, "losses": HARD, "training.views": clean},
        "noisy_labels": {"training.sources": labels, "losses": HARD},
        "both": {"training.sources": both, "losses": SOFT},
        **{
            name: {
                "training.sources": f"[{_source(tables[name])}]",
                "losses": ALONE,
                "training.views": clean,
            }
            for name in ("balanced", "unbalanced", "sure")
        },
    }
    results = {}
    for name, values in students.items():
        made = recipe(out, seed, {**values, "run.path": out / name})
        if values.get("training.views") == clean:
            made = made.model_copy(update={"views": None})
        results[name] = train_student.run(made, quiet=True)
    warned = tuple(name for name, result in results.items() if result.get("warnings"))
    accuracies = {name: float(result["test"]["accuracy"]) for name, result in results.items()}
    return Students(seed, good, hasty, **accuracies, warned=warned)


def _teach(folder: Path, seed: int, values: Values) -> float:
    """Train a teacher of the labels, and cache what it says of all other images."""
    teacher = shipped(
        "digits-few",
        {
            "data.train.subset": f"{{ count = {LABELS}, seed = {seed} }}",
            "training.seed": seed,
            "run.path": folder / "teacher",
            **values,
        },
    )
    accuracy: float = train_student.run(teacher, quiet=True)["test"]["accuracy"]
    cache_teacher.run(recipe(folder, seed, {}), quiet=True)
    held_out: Values = {"cache.data": '"validation"', "cache.path": folder / "held-out"}
    cache_teacher.run(recipe(folder, seed, held_out), quiet=True)
    return accuracy


def _label(folder: Path, seed: int, at_least: float, *, balanced: bool) -> Path:
    path = folder / f"{at_least}-{'balanced' if balanced else 'unbalanced'}"
    values: Values = {
        "pseudo_labels.path": path,
        "pseudo_labels.rule": f'{{ kind = "threshold", at_least = {at_least} }}',
        "pseudo_labels.balanced": str(balanced).lower(),
    }
    pseudo_label.run(recipe(folder, seed, values), quiet=True)
    return path


def _source(table: Path, cache: Path | None = None) -> str:
    taught = f", cache = {as_toml(cache)}" if cache else ""
    return f'{{ data = "unlabelled", rows = 50, pseudo_labels = {as_toml(table)}{taught} }}'
