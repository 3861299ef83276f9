"""A chain of three, large, middle and small: is the small one worse for learning from the middle?

The students of a seed differ in their teacher alone. The better checkpoint is chosen on the
validation split; the test split is only looked at here.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from pipeline.progress import progress
from pipeline.recipe import Recipe
from replication.interval import t_interval
from replication.recipes import HARD, as_toml, shipped
from replication.report import Bar, Report
from stages import cache_teacher, train_student

# Points of test accuracy. Published gains by an assistant are 0.3 to 0.9, with the best of several
# settings; so few seeds can only show that it does no harm.
MOST_HARM = 0.5
LEAST_GAP = 2.0


@dataclass(frozen=True)
class Chain:
    """Test accuracies: of an assistant, and of the small students of one seed."""

    seed: int
    assistant: float
    chained: float
    direct: float
    both: float
    hard: float


def run(out: Path, *, seeds: int) -> Report:
    """Train the large teacher and `seeds` chains under `out`, and compare."""
    teacher, large = out / "large", out / "large-cache"
    answer = train_student.run(shipped("digits-teacher", {"run.path": teacher}), quiet=True)
    cache_teacher.run(
        shipped("digits-assistant", {"teacher.model.path": teacher, "cache.path": large}),
        quiet=True,
    )
    with progress("chain", total=5 * seeds, unit="students") as advance:
        chains = []
        for seed in range(seeds):
            chains.append(_train_chain(out, large, seed))
            advance(5, f"chained {chains[-1].chained:.1%}, direct {chains[-1].direct:.1%}")
    return report(answer["test"]["accuracy"], chains)


def report(large: float, chains: list[Chain]) -> Report:
    """Lay out the chains, and what the small students lose or win by each teacher."""
    rows = {name: [getattr(c, name) for c in chains] for name in ("direct", "both", "hard")}
    change = t_interval([100 * (c.chained - c.direct) for c in chains])
    of_both = t_interval([100 * (c.both - c.direct) for c in chains])
    of_hard = t_interval([100 * (c.hard - c.direct) for c in chains])
    table = [
        f"100 labelled digits, test accuracy on 500; the large teacher {large:.1%}, small students "
        "by what teaches them",
        f"{'seed':>4} {'assistant':>10} {'| small:':>9} {'assistant':>10} {'large':>8} {'both':>8} "
        f"{'labels':>8} {'assistant - large':>18}",
        *(
            f"{c.seed:>4} {c.assistant:>10.1%} {'|':>9} {c.chained:>10.1%} {c.direct:>8.1%} "
            f"{c.both:>8.1%} {c.hard:>8.1%} {100 * (c.chained - c.direct):>+18.1f}"
            for c in chains
        ),
        f"mean {mean(c.assistant for c in chains):>10.1%} {'|':>9} "
        f"{mean(c.chained for c in chains):>10.1%} {mean(rows['direct']):>8.1%} "
        f"{mean(rows['both']):>8.1%} {mean(rows['hard']):>8.1%} {change.mean:>+18.2f}",
        "against the large teacher's student, points, with 95 % intervals:",
        *(
            f"  {name:<10} {each.mean:+.2f}, {each.low:+.2f} to {each.high:+.2f}"
            for name, each in (("assistant", change), ("both", of_both), ("labels", of_hard))
        ),
    ]
    bars = [
        Bar(
            "large teacher's accuracy above its small student's, points",
            100 * (large - mean(rows["direct"])),
            ">",
            LEAST_GAP,
        ),
        Bar("the assistant's student above the direct one, points", change.mean, ">=", -MOST_HARM),
    ]
    return Report(table, bars)


def _train_chain(out: Path, large: Path, seed: int) -> Chain:
    folder = out / f"seed-{seed}"
    middle, run_path = folder / "assistant-cache", folder / "assistant"
    values: dict[str, Path | int] = {
        "cache.path": large,
        "training.seed": seed,
        "run.path": run_path,
    }
    assistant = train_student.run(shipped("digits-assistant", values), quiet=True)
    cache_teacher.run(
        shipped("digits-small", {"teacher.model.path": run_path, "cache.path": middle}),
        quiet=True,
    )
    small = {
        name: float(train_student.run(recipe, quiet=True)["test"]["accuracy"])
        for name, recipe in small_students(folder, large, middle, seed).items()
    }
    return Chain(seed, assistant["test"]["accuracy"], **small)


def small_students(folder: Path, large: Path, middle: Path, seed: int) -> dict[str, Recipe]:
    """Describe the small students of a seed, which differ in what teaches them alone."""
    both = f"[{{ cache = {as_toml(large)} }}, {{ cache = {as_toml(middle)} }}]"
    taught: dict[str, dict[str, Path | str]] = {
        "chained": {"cache.path": middle},
        "direct": {"cache.path": large},
        "both": {"training.teachers": both},
        "hard": {"losses": HARD},
    }
    return {
        name: shipped("digits-small", {**values, "training.seed": seed, "run.path": folder / name})
        for name, values in taught.items()
    }
